"""Turns a list of audio files into a prepared corpus; safe against damaged files and kills at any moment.

Worker processes decode, and this one writes in the order of the list. So the corpus has the same bytes with any number
of workers and interruptions.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from clmr_tf.audio.decoding import CRASHED, TIMED_OUT, UnreadableAudioError, decoder_versions
from clmr_tf.audio.isolation import WorkerCrashError, WorkerTimeoutError, run_in_workers
from clmr_tf.audio.listing import SkippedFile
from clmr_tf.console import printable
from clmr_tf.data.corpus import (
    INDEX_FILE,
    MANIFEST_FILE,
    PCM_FILE,
    SKIPPED_FILE,
    Corpus,
    CorpusManifest,
    Item,
    count_by_split,
    fingerprint_of,
)
from clmr_tf.data.resolution import prepared_name
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import exclusive_lock, writable_or_usage_error, write_atomically
from clmr_tf.hardware import num_usable_cores
from pipelines.preparation.journal import Journal, opened_journal
from pipelines.preparation.sources import SourceFile, check_sources, counted, listing_digest, sources_digest
from pipelines.preparation.transcoding import MeasuredAudio, TranscodingTask, transcode

_logger = logging.getLogger(__name__)

# Several times the time that the slowest format takes.
_DIRECT_CHECK_SECONDS, _DIRECT_CHECK_BYTES_PER_SECOND = 20.0, 1e6


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
    """How a corpus is prepared."""

    sample_rate_hz: int = 22050
    """Sample rate of the corpus, in Hz."""
    min_num_samples: int = 59049
    """Shortest recording to keep, in samples at that rate; the default is one crop, 2.68 seconds."""
    timeout_seconds: float = 300.0
    """Time limit for one file, in seconds; an intact song takes less than one second."""
    num_workers: int | None = None
    """Number of decoding processes. Default: one per core."""
    max_skipped_fraction: float = 0.5
    """Fraction of the audio files, from 0 to 1, that may be unusable; more suggests a wrong folder or a bad disk."""
    reader: Literal["prepared", "direct"] = "prepared"
    """prepared: decode to 16-bit PCM, 2.6 MB a minute at 22050 Hz. direct: only check that training can decode the
    files."""

    def __post_init__(self) -> None:
        limits = {
            "sample_rate_hz": 1000 <= self.sample_rate_hz <= 768_000,
            "min_num_samples": self.min_num_samples >= 1,
            "timeout_seconds": self.timeout_seconds > 0,
            "num_workers": self.num_workers is None or self.num_workers >= 1,
            "max_skipped_fraction": 0 <= self.max_skipped_fraction <= 1,
        }
        for name, is_valid in limits.items():
            if not is_valid:
                raise UsageError(f"The setting {name} cannot be {getattr(self, name)}; see --help for what it means.")

    @property
    def storage(self) -> str:
        """The value for `reader` in the manifest."""
        return "direct" if self.reader == "direct" else "pcm"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a preparation.

    Attributes:
        num_done: Files that are decoded or skipped.
        num_files: All files.
        num_skipped: Files that were left out so far.
        audio_seconds: Duration of the audio so far.
    """

    num_done: int
    num_files: int
    num_skipped: int
    audio_seconds: float


def prepare(
    sources: Sequence[SourceFile],
    destination: Path,
    settings: PrepareSettings,
    *,
    name: str,
    tag_names: Sequence[str],
    source_description: str,
    options: Mapping[str, str] | None = None,
    rejected: Sequence[SkippedFile] = (),
    arrange: Callable[[Sequence[Item]], Sequence[Item]] = lambda items: items,
    on_progress: Callable[[Progress], None] | None = None,
) -> Corpus:
    """Prepares a corpus, resumes an interrupted preparation, or opens a finished corpus.

    `num_workers`, `timeout_seconds` and `max_skipped_fraction` may change when resuming; after any other change, the
    preparation starts again. A finished corpus is never changed: delete its folder to prepare it again.

    Args:
        sources: The files in the order of the index.
        destination: Folder of the corpus, created if it does not exist.
        settings: How files are decoded and which are accepted.
        name: Short name of the corpus.
        tag_names: All tags, in the order of the multi-hot vectors.
        source_description: Where the files came from, without a path of this machine.
        options: Other options that the list depends on; a finished corpus with other options is rejected.
        rejected: Files that the pipeline left out itself, for skipped.jsonl and the summary.
        arrange: Sets the final songs and splits of the items, once all are decoded.
        on_progress: Called at the beginning and after every file.

    Raises:
        UsageError: If no file can be used, the destination cannot be used, or it contains a corpus that was prepared
            with other settings.
        ClmrError: If more than `settings.max_skipped_fraction` of the sources cannot be used.
        OSError: If the disk is full; the next start continues from there.
    """
    check_sources(sources, tag_names)
    outline = CorpusManifest(
        name=name,
        sample_rate_hz=settings.sample_rate_hz,
        storage=settings.storage,
        tag_names=tuple(tag_names),
        num_items={},
        num_songs={},
        num_skipped={},
        source={**(options or {}), "description": source_description, "listing_sha256": listing_digest(sources)},
        tool_versions=decoder_versions(),
        fingerprint="",
    )
    corpus = opened_if_finished(destination, outline, settings.min_num_samples)
    if corpus is not None:
        return corpus
    if not sources:
        raise UsageError(
            f"There is no audio for the corpus {name!r} among {len(rejected)} files ({counted(rejected)})."
        )
    with _claimed_destination(destination) as work:
        # Another process may have finished it between the check above and the lock.
        corpus = opened_if_finished(destination, outline, settings.min_num_samples)
        if corpus is not None:
            return corpus
        state = {
            "outline": dataclasses.asdict(outline),
            "min_num_samples": settings.min_num_samples,
            "sources": sources_digest(sources),
        }
        with opened_journal(work, destination / PCM_FILE, state, with_audio=settings.reader == "prepared") as journal:
            _process(sources, journal, settings, on_progress)
            skipped = sorted([*rejected, *journal.skipped], key=lambda file: os.fsencode(file.source))
            write_atomically(destination / SKIPPED_FILE, _lines(skipped), draft_folder=work)
            _require_enough(journal, destination, settings)
            items = arrange(journal.items)
            _warn_of_empty_splits(sources, items)
            _finish(items, journal, skipped, outline, destination, work)
        _clear_work_folder(destination)
    return Corpus.open(destination)


CORPORA = Path("corpora")
_WORK_FOLDER = "unfinished"
_LOCK_FILE = "lock"


def default_destination(pipeline: str, settings: PrepareSettings) -> Path:
    """Where a pipeline prepares its corpus by default, which is where `--corpus` of other commands looks for it."""
    return CORPORA / prepared_name(pipeline, settings.sample_rate_hz, settings.storage)


@contextlib.contextmanager
def _claimed_destination(destination: Path) -> Iterator[Path]:
    """Creates the folder and its work folder, and locks them against other preparations.

    Yields:
        The work folder, for everything that must survive a kill. It exists until `_clear_work_folder`.

    Raises:
        UsageError: If the folder cannot be written, contains something else, or is being prepared by another process.
    """
    work = destination / _WORK_FOLDER
    with contextlib.ExitStack() as stack:
        with writable_or_usage_error(destination, "choose another folder for the corpus"):
            if destination.exists() and not destination.is_dir():
                raise UsageError(f"{destination} is a file; choose a folder for the corpus.")
            destination.mkdir(parents=True, exist_ok=True)
            _refuse_foreign_files(destination)
            work.mkdir(exist_ok=True)
            refusal = f"Another process is already preparing {destination}; wait for it to finish."
            stack.enter_context(exclusive_lock(work / _LOCK_FILE, refusal))
        yield work


def _clear_work_folder(destination: Path) -> None:
    # If the folder cannot be removed, it does no harm.
    shutil.rmtree(destination / _WORK_FOLDER, ignore_errors=True)


def _refuse_foreign_files(destination: Path) -> None:
    names = {entry.name for entry in destination.iterdir() if not entry.name.startswith(".")}
    if names and names.isdisjoint({_WORK_FOLDER, MANIFEST_FILE}):
        raise UsageError(f"{destination} contains other files and no corpus; choose an empty folder for the corpus.")


_LISTING = "listing_sha256"
# These entries describe the source of the music and do not change the corpus.
_FREE_TEXT = frozenset({"description", _LISTING})


def opened_if_finished(destination: Path, outline: CorpusManifest, min_num_samples: int) -> Corpus | None:
    """Opens the corpus in `destination`; None if there is no finished one.

    Files that were added or removed since only cause a warning: music folders change all the time, and a run should
    continue with the corpus that it started with.

    Args:
        destination: Folder of the corpus.
        outline: The manifest that the corpus would get now, as far as it is known before decoding.
        min_num_samples: Shortest item to accept.

    Raises:
        UsageError: If the corpus was prepared with other settings, or is damaged.
    """
    if not (destination / MANIFEST_FILE).is_file():
        return None
    corpus = Corpus.open(destination)
    # The last preparation may have been killed between its last two steps.
    _clear_work_folder(destination)
    _require_same_settings(corpus, outline)
    shortest = min((item.num_samples for item in corpus.items), default=0)
    if shortest < min_num_samples:
        raise UsageError(
            f"{destination} has an item of {shortest} samples, fewer than the {min_num_samples} requested now; "
            "delete that folder to prepare it again, or choose another one."
        )
    if corpus.manifest.storage == "direct" and not Path(corpus.items[0].file).is_file():
        raise UsageError(
            f"{destination} refers to audio files that no longer exist, such as {printable(corpus.items[0].file)}; "
            "delete that folder to prepare it again."
        )
    if corpus.manifest.source.get(_LISTING) != outline.source[_LISTING]:
        _logger.warning(
            "The source files have changed since %s was prepared; it is used unchanged (delete it to prepare it "
            "again).",
            destination,
        )
    return corpus


def _require_same_settings(corpus: Corpus, outline: CorpusManifest) -> None:
    existing, wanted = _settings(corpus.manifest), _settings(outline)
    for name in sorted(existing.keys() | wanted.keys()):
        if existing.get(name) != wanted.get(name):
            raise UsageError(
                f"{corpus.folder} was prepared with {name} {existing.get(name)}, not {wanted.get(name)}; delete that "
                "folder to prepare it again, or choose another one."
            )


def _settings(manifest: CorpusManifest) -> dict[str, object]:
    options = {name: value for name, value in manifest.source.items() if name not in _FREE_TEXT}
    reader = "direct" if manifest.storage == "direct" else "prepared"
    return {**options, "sample_rate_hz": manifest.sample_rate_hz, "reader": reader}


def _process(
    sources: Sequence[SourceFile],
    journal: Journal,
    settings: PrepareSettings,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    audio_seconds = sum(item.num_samples for item in journal.items) / settings.sample_rate_hz

    def report() -> None:
        if on_progress is not None:
            on_progress(Progress(journal.num_done, len(sources), len(journal.skipped), audio_seconds))

    report()
    remaining = sources[journal.num_done :]
    tasks = [
        TranscodingTask(source.path, journal.parts / str(number), settings.sample_rate_hz, settings.min_num_samples)
        for number, source in enumerate(remaining)
    ]
    outcomes = run_in_workers(
        _work_of(settings.reader),
        tasks,
        num_workers=settings.num_workers or num_usable_cores(),
        timeout_seconds=_time_limit_seconds(remaining, settings),
    )
    with contextlib.closing(outcomes):
        for source, task, outcome in zip(remaining, tasks, outcomes, strict=True):
            if outcome.error is None:
                item = _item(source, outcome.result, journal)
                journal.add_item(item, task.part)
                audio_seconds += item.num_samples / settings.sample_rate_hz
            else:
                journal.add_skipped(_skipped(source, outcome.error), task.part)
            report()


def _time_limit_seconds(sources: Sequence[SourceFile], settings: PrepareSettings) -> float:
    """The time limit for one file."""
    if settings.reader == "prepared":
        return settings.timeout_seconds
    # tensorflow-io never returns for some wrong headers; nothing else takes long.
    num_bytes = max((source.path.stat().st_size for source in sources if source.path.is_file()), default=0)
    return min(settings.timeout_seconds, _DIRECT_CHECK_SECONDS + num_bytes / _DIRECT_CHECK_BYTES_PER_SECOND)


def _work_of(reader: str) -> Callable[[TranscodingTask], MeasuredAudio]:
    if reader == "prepared":
        return transcode
    # It imports TensorFlow, which the other workers do not need.
    from pipelines.preparation.direct_check import validate

    return validate


def _item(source: SourceFile, measured: MeasuredAudio, journal: Journal) -> Item:
    return Item(
        id=source.item_id,
        song_id=source.song_id,
        source=source.source,
        split=source.split,
        tags=source.tags,
        file=PCM_FILE if journal.audio is not None else str(source.path.absolute()),
        offset_samples=journal.audio.num_samples if journal.audio is not None else 0,
        **dataclasses.asdict(measured),
    )


def _skipped(source: SourceFile, error: Exception) -> SkippedFile:
    match error:
        case UnreadableAudioError():
            return SkippedFile(source.source, error.reason, error.detail)
        case WorkerTimeoutError():
            return SkippedFile(source.source, TIMED_OUT, str(error))
        case WorkerCrashError() | MemoryError():
            return SkippedFile(source.source, CRASHED, str(error))
    # A full disk, or a bug in this program; not an error in this file.
    raise error


def _require_enough(journal: Journal, destination: Path, settings: PrepareSettings) -> None:
    num_skipped, num_files = len(journal.skipped), journal.num_done
    found = f"{num_skipped} of {num_files} audio files cannot be used ({counted(journal.skipped)})"
    if not journal.items:
        raise UsageError(f"{found}, so the corpus would be empty; see the reasons in {destination / SKIPPED_FILE}.")
    if num_skipped > settings.max_skipped_fraction * num_files:
        raise ClmrError(
            f"{found}; see {destination / SKIPPED_FILE}, and if that is expected, start again with "
            f"--max-skipped-fraction {min(1.0, -(-num_skipped * 100 // num_files) / 100):g}."
        )


def _warn_of_empty_splits(sources: Sequence[SourceFile], items: Sequence[Item]) -> None:
    # With few songs, the one drawn for validation may be broken.
    for split in sorted({source.split for source in sources} - {item.split for item in items}):
        _logger.warning("None of the files for the split %s can be used; the corpus does not have this split.", split)


def _finish(
    items: Sequence[Item],
    journal: Journal,
    skipped: Sequence[SkippedFile],
    outline: CorpusManifest,
    destination: Path,
    work: Path,
) -> None:
    if journal.audio is not None:
        journal.audio.sync()
    index = _lines(items)
    write_atomically(destination / INDEX_FILE, index, draft_folder=work)
    num_items, num_songs = count_by_split(items)
    manifest = dataclasses.replace(
        outline,
        num_items=num_items,
        num_songs=num_songs,
        num_skipped=dict(collections.Counter(file.reason for file in skipped)),
        fingerprint=fingerprint_of(index),
    )
    # The manifest is written last, since a folder with a manifest is a finished corpus.
    write_atomically(destination / MANIFEST_FILE, manifest.to_json().encode("utf-8"), draft_folder=work)


def _lines(rows: Sequence[Item | SkippedFile]) -> bytes:
    return b"".join(row.to_json().encode("ascii") + b"\n" for row in rows)
