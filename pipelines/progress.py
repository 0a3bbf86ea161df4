"""Shows how far a preparation is: a bar in a terminal, a line now and then elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from clmr_tf.audio_decoders import NOT_AUDIO
from clmr_tf.audio_listing import counted_extensions
from clmr_tf.console import notes
from clmr_tf.corpus import SKIPPED_FILE, SPLITS, Corpus
from pipelines.prepare import Progress
from pipelines.sources import counted_reasons, read_skipped

_SECONDS_BETWEEN_LINES = 60.0


@contextlib.contextmanager
def shown_progress(name: str) -> Iterator[Callable[[Progress], None]]:
    """Yields what `pipelines.prepare.prepare` takes as `on_progress`. Nothing is shown before its first call.

    Args:
        name: What is prepared, in a word.
    """
    if not notes.is_terminal:
        yield _line_printer(name)
        return
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files, {task.fields[amounts]}"),
        TimeRemainingColumn(),
    ]
    bar = Bar(*columns, console=notes)
    with contextlib.ExitStack() as stack:
        task = bar.add_task(f"Preparing {name}", amounts="")

        def show(progress: Progress) -> None:
            if not bar.live.is_started:
                stack.enter_context(bar)
            bar.update(task, completed=progress.num_done, total=progress.num_files, amounts=_amounts(progress))

        yield show


def summarise(corpus: Corpus) -> str:
    """One sentence about a finished corpus: what it holds and what was left out."""
    manifest = corpus.manifest
    hours = sum(item.num_samples for item in corpus.items) / manifest.sample_rate_hz / 3600
    splits = ", ".join(f"{manifest.num_items[split]:,} {split}" for split in SPLITS if split in manifest.num_items)
    sentence = f"{corpus.folder}: {len(corpus.items):,} items ({splits}), {hours:.2f} hours of audio"
    if damaged := [item for item in corpus.items if item.lost_seconds > 0]:
        lost_seconds = sum(item.lost_seconds for item in damaged)
        are = "item is" if len(damaged) == 1 else "items are"
        sentence += f"; {len(damaged):,} {are} damaged and lack {lost_seconds:.1f} s (lost_seconds in index.jsonl)"
    if manifest.num_skipped:
        sentence += f"; left out: {counted_reasons(manifest.num_skipped)} (see {SKIPPED_FILE} there)"
        if no_audio := read_skipped(corpus.folder / SKIPPED_FILE, NOT_AUDIO):
            sentence += f"; no audio: {counted_extensions(no_audio)}"
    return sentence + "."


def _line_printer(name: str) -> Callable[[Progress], None]:
    last_line_at = float("-inf")

    def show(progress: Progress) -> None:
        nonlocal last_line_at
        now = time.monotonic()
        if now - last_line_at >= _SECONDS_BETWEEN_LINES or progress.num_done == progress.num_files:
            last_line_at = now
            notes.print(
                f"Preparing {name}: {progress.num_done} of {progress.num_files} files, {_amounts(progress)}",
                markup=False,
            )

    return show


def _amounts(progress: Progress) -> str:
    return f"{progress.audio_seconds / 3600:.1f} hours of audio, {progress.num_skipped} left out"
