"""python -m clmr_tf.probe: scores an exported encoder by a linear classifier on its embeddings."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from clmr_tf.command_line import parse_command
from clmr_tf.console import notes, results, run_command
from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Settings of the probe."""

    model: Path = Path("savedmodels/demo")
    """Model folder, as `python -m clmr_tf.export` writes it."""
    corpus: str = "demo"
    """Corpus with tags and three splits: "demo", or the folder of a prepared one, such as
    `python -m pipelines.folder MUSIC --out corpora/mine --tags folder --test-share 0.2` makes."""
    corpora: Path = Path("corpora")
    """Folder that keeps what was prepared from audio files."""
    out: Path | None = None
    """JSON file with the result. Default: probe-NAME-OF-CORPUS.json in the model folder."""
    seed: int = 42
    """Seed of the first untrained encoder's weights; there are three, of this seed and the two after it."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        ProbeConfig,
        arguments,
        program="python -m clmr_tf.probe",
        description="Scores an exported encoder by a linear classifier on its frozen embeddings.",
    )
    # After the command line is known to be right: TensorFlow takes seconds to load.
    from clmr_tf.model_folder import record_score
    from clmr_tf.probing import probe

    if config.out is not None and not config.out.expanduser().parent.is_dir():
        raise UsageError(f"There is no folder {config.out.expanduser().parent}; make it, or choose another --out.")

    model = config.model.expanduser()
    notes.print(f"Probing {model} on {config.corpus} ...", markup=False)
    result = probe(model, config.corpus, config.corpora.expanduser(), config.seed)
    results.print(_table(result))
    by_seed = result["rows"][1]["by_seed"]
    each = ", ".join(f"{one['score']:.3f}" for one in by_seed)
    results.print(f"The untrained encoder is the mean of {len(by_seed)} seeds, by song: {each}")
    difference = result["trained_minus_untrained"]
    low, high = difference["interval"]
    results.print(f"Trained minus untrained, by song: {difference['score']:+.3f} (95 %: {low:+.3f} to {high:+.3f})")
    out = (config.out or model / f"probe-{result['corpus']['name']}.json").expanduser()
    write_atomically(out, json.dumps(result, indent=2) + "\n")
    record_score(model, result["corpus"]["name"], {"metric": result["metric"], "split": "test", **result["rows"][0]})
    results.print(f"Written to {out}", markup=False)


def _table(result: dict) -> Table:
    test = result["splits"]["test"]
    table = Table(title=f"Linear probe on {result['corpus']['name']}: {result['metric']}", box=box.SIMPLE)
    for heading in ("features", "by song", "95 %", "by clip", "split", "songs", "clips"):
        table.add_column(heading, no_wrap=True)
    for row in result["rows"]:
        low, high = row["interval"]
        scores = f"{row['score']:.3f}", f"{low:.3f}-{high:.3f}", f"{row['clip_score']:.3f}"
        table.add_row(row["features"], *scores, "test", str(test["num_recordings"]), str(test["num_clips"]))
    return table


if __name__ == "__main__":
    sys.exit(run_command(main))
