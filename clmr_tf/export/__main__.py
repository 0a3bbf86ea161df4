"""python -m clmr_tf.export: exports a run as a model folder that other programs load."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from clmr_tf.config.command_line import parse_command, to_json
from clmr_tf.console import run_command, stderr, stdout
from clmr_tf.errors import UsageError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Settings of the export."""

    model: Path = Path("runs/demo")
    """Run folder to export, or model folder to which --head, --tflite, --onnx or --web add files."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Which checkpoint to export. "best" is the best by the --best-metric of the run."""
    out: Path | None = None
    """Model folder to write. Default: savedmodels/NAME-OF-RUN. An earlier export of the same run is replaced, even if
    it is damaged. If the weights are the same, its probe results are kept; if the head is the same too, so are its
    files for other runtimes and its web page."""
    overwrite: bool = False
    """Also replace a model of another run or checkpoint, or of unknown origin."""
    licence: str = "unspecified"
    """Licence of the weights, for the manifest and the model card, preferably an SPDX name such as CC-BY-4.0."""
    head: Path | None = None
    """Result of a probe of this model, evaluation-....json, or tags taught by `python -m clmr_tf.teach`,
    TABLE.tags.json. The head becomes part of the export, which then outputs its tags, and replaces that of a model that
    has one, such as one trained with labels. Existing files for other runtimes are written again with the tags; an
    existing web/ is removed unless --web is given."""
    tflite: str | None = None
    """Files to write for LiteRT: fp32, fp16, int8, with commas between them, or none. Default: fp32 for a run, so that
    the model works without TensorFlow; none for a model folder."""
    onnx: bool = False
    """Also write a file for ONNX Runtime."""
    web: bool = False
    """Also write web/, a page for any web server that tags and embeds songs in the browser, and --tflite fp32, which it
    needs."""
    web_runtime: Literal["bundled", "cdn"] = "bundled"
    """Where the page gets LiteRT.js from: its own folder (downloads 12 MB once), or a CDN, with integrity hashes."""
    web_table: Path | None = None
    """Table of `python -m clmr_tf.embed`, .npz, of up to 10,000 songs; the page then shows which are the nearest.
    Everyone who can open the page can read their embeddings and names."""

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown kind of file, or --web-table without --web."""
        if not set(self.runtimes) <= {"fp32", "fp16", "int8", "onnx"}:
            raise UsageError(
                f"--tflite takes none, or fp32, fp16 and int8 with commas between them; received {self.tflite!r}."
            )
        if self.web_table and not self.web:
            raise UsageError("--web-table needs --web.")

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The requested kinds of files for other runtimes, each once; without that of the web page."""
        kinds = [] if self.tflite in (None, "none") else [kind.strip() for kind in self.tflite.split(",")]
        return tuple(dict.fromkeys([*kinds, *(["onnx"] if self.onnx else [])]))


def export(config: ExportConfig) -> Path:
    """Exports the encoder of a run, and its head if it was trained with labels; or adds files to an export.

    Returns:
        The model folder, after a check of its golden numbers.

    Raises:
        ClmrError: If a file for another runtime, or the web page, could not be made; the rest of the model folder has
            been written.
    """
    from clmr_tf.export.model_folder import MANIFEST_FILE, WEB_FOLDER
    from clmr_tf.export.runtime_formats import FORMATS
    from clmr_tf.export.runtimes import add_runtime_files, kinds_in, require_packages
    from clmr_tf.export.web import add_web_page, read_web_songs

    source = config.model.expanduser()
    is_exported = (source / MANIFEST_FILE).is_file()
    if is_exported and (config.out or not (config.runtimes or config.head or config.web)):
        raise UsageError(
            f"{source} is already exported; give --head, --tflite, --onnx or --web without --out to add files, or give "
            "a run."
        )
    # Existing files have no tags, or those of another head.
    outdated = kinds_in(source) if is_exported and config.head else ()
    of_page = ("fp32",) if config.web else ()
    kinds = tuple(dict.fromkeys([*config.runtimes, *outdated, *of_page]))
    of_run = ("fp32",) if config.tflite is None and not is_exported else ()
    songs = read_web_songs(config.web_table.expanduser()) if config.web_table else None
    require_packages([*of_run, *kinds])
    folder, lost = _add_to_folder(source.absolute(), config) if is_exported else _export_run(source, config)
    if of_run and "fp32" not in kinds_in(folder):
        kinds = tuple(dict.fromkeys([*of_run, *kinds]))
    rewritten = {FORMATS[kind].file for kind in kinds} | ({WEB_FOLDER} if config.web else set())
    lost = [name for name in lost if name not in rewritten]
    if lost:
        logger.warning(
            "%s no longer holds %s, which belonged to other weights or another head; make them again with --head, "
            "--tflite, --onnx, --web or clmr_tf.probe.",
            folder,
            ", ".join(lost),
        )
    if outdated:
        files = " and ".join(FORMATS[kind].file for kind in outdated)
        stderr.print(f"Writing {files} again, with the tags of the new head.", markup=False)
    if kinds:
        add_runtime_files(folder, kinds)
    if config.web:
        add_web_page(folder, config.web_runtime, songs)
    return folder


def _export_run(run_folder: Path, config: ExportConfig) -> tuple[Path, Sequence[str]]:
    """Exports a run; returns the model folder and the files that only the previous model had."""
    from clmr_tf.export.writing import read_added_head, require_same_origin, write_model_folder
    from clmr_tf.train.run_folder import read_config, read_record, read_run_encoder, read_run_with_head

    folder = (config.out or Path("savedmodels") / run_folder.resolve().name).expanduser().absolute()
    training_config = read_config(run_folder)
    record, best = read_record(run_folder), config.checkpoint == "best"
    training = {"config": to_json(training_config), "run": record}
    if not config.overwrite:
        require_same_origin(folder, training)
    labels = record.get("labels")
    head, tag_names, single_label = None, [], False
    if labels:
        tag_names, single_label = labels["tag_names"], labels["single_label"]
        encoder, head, step = read_run_with_head(run_folder, len(tag_names), best=best)
    else:
        encoder, step = read_run_encoder(run_folder, best=best)
    manifest_entries = {
        "name": folder.name,
        "licence": config.licence,
        "tag_names": tag_names,
        "single_label": single_label,
        "scores": {},
        "training": {"step": step, **training},
    }
    if config.head:
        probed = read_added_head(config.head.expanduser(), encoder)
        head, manifest_entries = probed.head, manifest_entries | probed.manifest_entries
    return folder, write_model_folder(encoder, folder, manifest_entries, head)


def _add_to_folder(folder: Path, config: ExportConfig) -> tuple[Path, Sequence[str]]:
    """Checks a model folder and, if there is a head to add, writes it again with the head; returns as `_export_run`."""
    from clmr_tf.export.keras_model import check_golden, read_encoder, read_projector
    from clmr_tf.export.model_folder import read_manifest
    from clmr_tf.export.writing import read_added_head, write_model_folder

    # New golden numbers from a damaged model would hide the damage.
    check_golden(folder)
    if config.head is None:
        return folder, ()
    manifest, encoder = read_manifest(folder), read_encoder(folder)
    probed = read_added_head(config.head.expanduser(), encoder)
    kept = {name: manifest[name] for name in ("name", "licence", "training", "scores")}
    manifest_entries = kept | probed.manifest_entries
    return folder, write_model_folder(encoder, folder, manifest_entries, probed.head, read_projector(folder))


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        ExportConfig, arguments, program="python -m clmr_tf.export", description="Exports the encoder of a run."
    )
    folder = export(config)
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    stdout.print(f"Exported to {folder}; its embeddings are the same after loading it again.", markup=False)
    if config.web:
        stdout.print(f"To try the page: python -m http.server --directory {folder}/web", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
