"""python -m clmr_tf.export: from a run to a folder that other programs load."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from clmr_tf.command_line import parse_command, to_plain
from clmr_tf.console import results, run_command


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Settings of the export."""

    model: Path = Path("runs/demo")
    """Folder of the run."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Which of its checkpoints to export; the best by what the run was told with --best-metric."""
    out: Path | None = None
    """Model folder to write. Default: savedmodels/NAME-OF-RUN. A model folder that is there is replaced,
    with the probes of its weights, unless it holds files of others."""
    licence: str = "unspecified"
    """Licence of the weights, for the manifest."""


def export(config: ExportConfig) -> Path:
    """Exports the encoder of a run, and its classifier if it was trained with labels.

    Returns:
        The model folder, whose golden numbers have been checked.
    """
    from clmr_tf.model_writing import write_model_folder
    from clmr_tf.pretrained import read_run_encoder, read_run_with_head
    from clmr_tf.run_folder import read_config, read_record

    run_folder = config.model.expanduser()
    folder = (config.out or Path("savedmodels") / run_folder.resolve().name).expanduser().absolute()
    training_config = read_config(run_folder)
    record, best = read_record(run_folder), config.checkpoint == "best"
    labels = record.get("labels")
    head = None
    if labels:
        encoder, head, step = read_run_with_head(run_folder, len(labels["tag_names"]), best=best)
    else:
        encoder, step = read_run_encoder(run_folder, best=best)
    facts = {
        "name": folder.name,
        "licence": config.licence,
        "tag_names": labels["tag_names"] if labels else [],
        "scores": {},
        "training": {"step": step, "config": to_plain(training_config), "run": record},
    }
    write_model_folder(encoder, folder, facts, head)
    return folder


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        ExportConfig, arguments, program="python -m clmr_tf.export", description="Exports the encoder of a run."
    )
    folder = export(config)
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    results.print(f"Exported to {folder}; loaded again, its embeddings are the same.", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
