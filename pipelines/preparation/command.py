"""The command of a corpus: its options, its progress bar and its summary."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from clmr_tf.audio.decoding import NOT_AUDIO
from clmr_tf.audio.listing import counted_extensions
from clmr_tf.config.command_line import parse_command
from clmr_tf.console import shown_progress, stdout
from clmr_tf.data.corpus import SKIPPED_FILE, SPLITS, Corpus
from pipelines.preparation.prepare import PrepareSettings, Progress, default_destination
from pipelines.preparation.sources import counted_reasons, read_skipped


@contextlib.contextmanager
def shown_preparation(name: str, doing: str = "Preparing") -> Iterator[Callable[[Progress], None]]:
    """Yields an `on_progress` for `prepare` that shows the progress.

    Args:
        name: Name of the corpus.
        doing: The first word of the progress text.
    """
    with shown_progress() as show:

        def on_progress(progress: Progress) -> None:
            amounts = f"{progress.audio_seconds / 3600:.1f} hours of audio, {progress.num_skipped} left out"
            files = f"{progress.num_done} of {progress.num_files} files"
            words, line = f"{doing} {name}: {amounts}", f"{doing} {name}: {files}, {amounts}"
            show(progress.num_done, progress.num_files, words, line)

        yield on_progress


def summarise(corpus: Corpus) -> str:
    """One sentence about a finished corpus: what it contains and what was left out."""
    manifest = corpus.manifest
    hours = sum(item.num_samples for item in corpus.items) / manifest.sample_rate_hz / 3600
    splits = ", ".join(f"{manifest.num_items[split]:,} {split}" for split in SPLITS if split in manifest.num_items)
    sentence = f"{corpus.folder}: {len(corpus.items):,} items ({splits}), {hours:.2f} hours of audio"
    if damaged := [item for item in corpus.items if item.lost_seconds > 0]:
        lost_seconds = sum(item.lost_seconds for item in damaged)
        are = "item is" if len(damaged) == 1 else "items are"
        sentence += f"; {len(damaged):,} {are} damaged, with {lost_seconds:.1f} s missing (lost_seconds in index.jsonl)"
    if manifest.num_skipped:
        sentence += f"; left out: {counted_reasons(manifest.num_skipped)} (see {SKIPPED_FILE} there)"
        if no_audio := read_skipped(corpus.folder / SKIPPED_FILE, NOT_AUDIO):
            sentence += f"; no audio: {counted_extensions(no_audio)}"
    return sentence + "."


@dataclasses.dataclass(frozen=True)
class CorpusOptions(PrepareSettings):
    """Options of a published data set: the folders, and how files are prepared."""

    data: Path | None = None
    """Folder with the published files, as described above; by default the folder named there."""
    out: Path | None = None
    """Folder for the corpus: new, empty, or from an interrupted preparation; by default the folder in corpora/ where
    --corpus looks for a data set of this name."""


@dataclasses.dataclass(frozen=True)
class DownloadOptions(CorpusOptions):
    """Options of a data set that anyone may download."""

    download: bool = False
    """Download missing files first; with this option, you accept the licence named above."""


Options = TypeVar("Options", bound=CorpusOptions)


def run_pipeline(
    arguments: Sequence[str],
    prepare: Callable[[Path, Options, Path], Corpus],
    *,
    data: Path,
    options_type: type[Options],
    name: str,
    description: str,
) -> None:
    """Reads the command line, prepares the corpus and prints its summary.

    Args:
        arguments: The command line without the program's name.
        prepare: Makes the corpus from its destination, the options and the folder of the published files.
        data: That folder, without --data.
        options_type: Dataclass of the options.
        name: Name of the pipeline.
        description: Text of `--help`.
    """
    options = parse_command(options_type, arguments, program=f"python -m pipelines.{name}", description=description)
    corpus = prepare(options.out or default_destination(name, options), options, options.data or data)
    stdout.print(summarise(corpus), markup=False)
