"""Turns a list of audio files into a prepared corpus; safe against damaged files and kills at any moment.

Worker processes decode, and this one writes in the order of the list. So the corpus has the same bytes with any number
of workers and interruptions. It is made of shards, which `merging` puts together; without --shard there is one.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clmr_tf import __version__
from clmr_tf.audio.decoding import CRASHED, TIMED_OUT, UnreadableAudioError, decoder_versions, require_decoders
from clmr_tf.audio.isolation import WorkerCrashError, WorkerTimeoutError, run_in_workers
from clmr_tf.audio.listing import SkippedFile
from clmr_tf.cluster import ClusterOptions, ShardTask, run_on_cluster
from clmr_tf.config.shards import LOCK_TIMEOUT_SECONDS, Shard
from clmr_tf.console import printable
from clmr_tf.data.corpus import SHARDS_FOLDER, SKIPPED_FILE, Corpus, CorpusManifest, holds_corpus
from clmr_tf.data.index import INDEX_FILE, Item, index_table, write_index
from clmr_tf.data.resolution import prepared_name
from clmr_tf.errors import UsageError
from clmr_tf.files import sha256_of, writable_or_usage_error, write_atomically
from clmr_tf.hardware import num_usable_cores
from pipelines.preparation.journal import Journal, opened_journal
from pipelines.preparation.merging import SongsOfCopies, lines_of, merge, publish
from pipelines.preparation.shards import (
    ShardManifest,
    claimed_folder,
    clear_work_folder,
    folder_of,
    require_own_folder,
    require_same_division,
    shards_in,
)
from pipelines.preparation.sources import (
    SourceFile,
    check_sources,
    counted,
    files_digest,
    sources_digest,
)
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
    """Fraction of the audio files, from 0 to 1, that may be unusable; more suggests a wrong folder or a bad disk. With
    --shard, give it to `python -m pipelines.merge`, too."""
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


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A corpus to prepare.

    Attributes:
        destination: Folder of the corpus, created if it does not exist.
        settings: How files are decoded and which are accepted.
        sources: The files in the order of the index.
        name: Short name of the corpus.
        tag_names: All tags, in the order of the multi-hot vectors.
        source_description: Where the files came from, without a path of this machine.
        options: Other options that the list depends on; a finished corpus with other options is rejected.
        rejected: Files that the pipeline left out itself, for skipped.jsonl and the summary.
        copies: How copies of a recording become songs; None keeps the songs and splits of `sources`.
    """

    destination: Path
    settings: PrepareSettings
    sources: Sequence[SourceFile]
    name: str
    tag_names: Sequence[str]
    source_description: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rejected: Sequence[SkippedFile] = ()
    copies: SongsOfCopies | None = None

    @functools.cached_property
    def outline(self) -> CorpusManifest:
        """The manifest, as far as it is known before decoding."""
        digest = {_SOURCES: sources_digest(self.sources)}
        return CorpusManifest(
            name=self.name,
            sample_rate_hz=self.settings.sample_rate_hz,
            storage=self.settings.storage,
            tag_names=tuple(self.tag_names),
            num_items={},
            num_songs={},
            num_skipped={},
            source={**self.options, "description": self.source_description, **digest},
            tool_versions={"clmr_tf": __version__, **decoder_versions()},
        )

    @functools.cached_property
    def made_from(self) -> dict[str, Any]:
        """All that the corpus depends on, as JSON data, which is equal for all shards."""
        return json.loads(
            json.dumps(
                {
                    "outline": dataclasses.asdict(self.outline),
                    "min_num_samples": self.settings.min_num_samples,
                    "copies": self.copies and dataclasses.asdict(self.copies),
                    "splits": sorted({source.split for source in self.sources}),
                    # With storage "direct", the index has the paths, so all shards need the same.
                    "first_file": str(self.sources[0].path.absolute()) if self.settings.storage == "direct" else "",
                }
            )
        )

    def of_shard(self, shard: Shard) -> "CorpusShard":
        """One shard of it."""
        places = shard.range_of(len(self.sources))
        # The first shard lists the files that no shard was given.
        rejected = self.rejected if shard.number == 0 else ()
        sources = self.sources[places.start : places.stop]
        return CorpusShard(self.destination, shard, self.settings, sources, rejected, self.made_from)


@dataclasses.dataclass(frozen=True)
class CorpusShard:
    """A shard of a corpus, with its own files only; it can be pickled and sent anywhere that sees the same files.

    Attributes:
        destination: Folder of the corpus.
        shard: Which of how many.
        settings: See `Preparation`.
        sources: Its files.
        rejected: Files for its skipped.jsonl that the pipeline left out itself.
        made_from: See `Preparation.made_from`.
    """

    destination: Path
    shard: Shard
    settings: PrepareSettings
    sources: Sequence[SourceFile]
    rejected: Sequence[SkippedFile]
    made_from: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Its folder."""
        return folder_of(self.shard, self.destination)


OnProgress = Callable[[Progress], None]


def prepare(preparation: Preparation, on_progress: OnProgress | None = None) -> Corpus:
    """Prepares a corpus, resumes an interrupted preparation, or opens a finished corpus.

    `num_workers`, `timeout_seconds` and `max_skipped_fraction` may change when resuming; after any other change, the
    preparation starts again. A finished corpus is never changed: delete its folder to prepare it again.

    Args:
        preparation: The corpus.
        on_progress: Called at the beginning and after every file.

    Raises:
        UsageError: If no file can be used, the destination cannot be used, or it contains a corpus that was prepared
            with other settings.
        ClmrError: If more than `settings.max_skipped_fraction` of the sources cannot be used.
        OSError: If the disk is full; the next start continues from there.
    """
    destination, settings = preparation.destination, preparation.settings
    corpus = opened_if_finished(destination, preparation.outline, settings.min_num_samples)
    if corpus is not None:
        return corpus
    _check(preparation, num_shards=1)
    with claimed_folder(destination) as work:
        # Another process may have finished it between the check above and the lock.
        corpus = opened_if_finished(destination, preparation.outline, settings.min_num_samples)
        if corpus is not None:
            return corpus
        task = preparation.of_shard(Shard(0, 1))
        finished = ShardManifest.read(task.folder)
        if finished is not None and finished.difference_from(task.made_from):
            # It was finished, but never published.
            shutil.rmtree(finished.folder)
        _prepare_shard(task, on_progress)
        publish(destination, settings.max_skipped_fraction, work)
    clear_work_folder(destination)
    return Corpus.open(destination)


def prepare_shard(preparation: Preparation, shard: Shard, on_progress: OnProgress | None = None) -> ShardManifest:
    """Prepares one shard of a corpus, in any order and at the same time as others; `merging.merge` makes the corpus.

    Killed and called again, it continues; finished, it does nothing. Which files a shard has depends on
    `preparation.sources` alone.

    Args:
        preparation: The corpus; the same for all shards.
        shard: Which one.
        on_progress: Called at the beginning and after every file of the shard.

    Raises:
        UsageError: If the destination cannot be used, or the shard is being prepared by another process or was
            prepared with other settings or another list of files.
        OSError: If the disk is full; the next call continues from there.
    """
    destination = preparation.destination
    if holds_corpus(destination):
        finished = ShardManifest.read(folder_of(shard, destination))
        difference = finished.difference_from(preparation.made_from) if finished else "another number of shards"
        if difference:
            raise UsageError(
                f"{destination} holds a finished corpus, prepared with {difference}; delete that folder to prepare it "
                "again, or choose another one."
            )
        return finished
    _check(preparation, shard.num_shards)
    return _prepare_shard(preparation.of_shard(shard), on_progress)


# Each has a file of PCM or several, and training reads from up to 256 files as fast as from one.
_FILES_PER_SHARD, _MIN_NUM_SHARDS, _MAX_NUM_SHARDS = 1000, 16, 256


def prepare_on_cluster(preparation: Preparation, options: ClusterOptions, num_shards: int | None = None) -> Corpus:
    """Prepares the shards of a corpus on a cluster, and merges them; the result is that of `prepare`.

    Args:
        preparation: The corpus. Without `settings.num_workers`, a shard is decoded by as many processes as a worker of
            the cluster has CPU cores.
        options: Which cluster.
        num_shards: How many; by default as many as there are already, otherwise one for each 1,000 files, 16 to 256.

    Raises:
        UsageError: As in `prepare_shard`, `merging.merge` and `run_on_cluster`.
        ClmrError: As in `merging.merge` and `run_on_cluster`.
        OSError: If the disk is full.
    """
    destination, settings = preparation.destination.absolute(), preparation.settings
    corpus = opened_if_finished(destination, preparation.outline, settings.min_num_samples)
    if corpus is not None:
        return corpus
    begun, num_files = shards_in(destination), len(preparation.sources)
    if num_shards is None:
        num_shards = min(max(num_files // _FILES_PER_SHARD, min(num_files, _MIN_NUM_SHARDS), 1), _MAX_NUM_SHARDS)
        if begun and begun[0].num_shards < num_shards:
            _logger.warning(
                "%s was begun with another number of shards, %d, and at most as many workers have work; delete that "
                "folder to prepare %d.",
                *(destination / SHARDS_FOLDER, begun[0].num_shards, num_shards),
            )
        num_shards = begun[0].num_shards if begun else num_shards
    _check(preparation, num_shards)
    on_nodes = dataclasses.replace(
        preparation,
        destination=destination,
        settings=dataclasses.replace(settings, num_workers=settings.num_workers or options.worker_cpus),
        sources=[dataclasses.replace(source, path=source.path.absolute()) for source in preparation.sources],
    )
    tasks = [on_nodes.of_shard(Shard(number, num_shards)) for number in range(num_shards)]
    run_on_cluster(
        options,
        functools.partial(_opened_worker, decoder_versions()),
        [ShardTask(str(task.shard), task, len(task.sources)) for task in tasks],
        doing=f"Preparing {preparation.name}",
    )
    return merge(destination, settings.max_skipped_fraction)


def _opened_worker(versions: Mapping[str, str]) -> Callable[[CorpusShard], ShardManifest]:
    """On a node of a cluster: refuses other decoders, and returns the function that prepares a shard."""
    require_decoders(versions)
    return _prepare_shard


def _check(preparation: Preparation, num_shards: int) -> None:
    """Checks the list of files and the destination before anything is written."""
    check_sources(preparation.sources, preparation.tag_names)
    if not preparation.sources:
        raise UsageError(
            f"There is no audio for the corpus {preparation.name!r} among {len(preparation.rejected)} files "
            f"({counted(preparation.rejected)})."
        )
    with writable_or_usage_error(preparation.destination, "choose another folder for the corpus"):
        require_own_folder(preparation.destination)
        require_same_division(preparation.destination, num_shards)


def _prepare_shard(task: CorpusShard, on_progress: OnProgress | None = None) -> ShardManifest:
    finished = _finished(task)
    if finished is None:
        with claimed_folder(task.folder, lock_timeout_seconds=LOCK_TIMEOUT_SECONDS) as work:
            # Another process may have finished it between the check above and the lock.
            finished = _finished(task) or _decode_shard(task, work, on_progress)
    # Also if the last preparation was killed between its last two steps.
    clear_work_folder(task.folder)
    return finished


def _finished(task: CorpusShard) -> ShardManifest | None:
    finished = ShardManifest.read(task.folder)
    difference = finished and finished.difference_from(task.made_from)
    if difference:
        raise UsageError(
            f"{task.folder} was prepared with {difference}; delete that folder to prepare the shard again."
        )
    return finished


def _decode_shard(task: CorpusShard, work: Path, on_progress: OnProgress | None) -> ShardManifest:
    folder, settings = task.folder, task.settings
    state = {**task.made_from, "shard": str(task.shard), "files_sha256": files_digest(task.sources)}
    with opened_journal(work, folder, state, with_audio=settings.reader == "prepared") as journal:
        _process(task.sources, journal, settings, on_progress)
        if journal.audio is not None:
            journal.audio.sync()
        write_atomically(folder / SKIPPED_FILE, lines_of([*task.rejected, *journal.skipped]), draft_folder=work)
        tag_names = task.made_from["outline"]["tag_names"]
        table = index_table(journal.items, tag_names)
        write_index(folder / INDEX_FILE, table, tag_names, storage=settings.storage, draft_folder=work)
        finished = ShardManifest(
            folder,
            made_from=task.made_from,
            num_files=len(task.sources),
            num_skipped=dict(collections.Counter(file.reason for file in journal.skipped)),
            num_rejected=len(task.rejected),
            audio_seconds=sum(item.num_samples for item in journal.items) / settings.sample_rate_hz,
            audio_files=() if journal.audio is None else tuple(journal.audio.files),
            sha256={name: sha256_of(folder / name) for name in (INDEX_FILE, SKIPPED_FILE)},
        )
    # The manifest is written last, since a folder with a manifest is a finished shard.
    finished.write(draft_folder=work)
    return finished


CORPORA = Path("corpora")


def default_destination(pipeline: str, settings: PrepareSettings) -> Path:
    """Where a pipeline prepares its corpus by default, which is where `--corpus` of other commands looks for it."""
    return CORPORA / prepared_name(pipeline, settings.sample_rate_hz, settings.storage)


_SOURCES = "sources_sha256"
# These entries describe the source of the music and do not change the corpus; the last one is of older versions.
_FREE_TEXT = frozenset({"description", _SOURCES, "listing_sha256"})


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
    if not holds_corpus(destination):
        return None
    corpus = Corpus.open(destination)
    # The last preparation may have been killed between its last two steps.
    clear_work_folder(destination)
    _require_same_settings(corpus, outline)
    shortest = corpus.num_samples.min(initial=np.iinfo(np.int64).max)
    if shortest < min_num_samples:
        raise UsageError(
            f"{destination} has an item of {shortest} samples, fewer than the {min_num_samples} requested now; "
            "delete that folder to prepare it again, or choose another one."
        )
    if corpus.manifest.storage == "direct" and not Path(first := corpus.items[0].file).is_file():
        raise UsageError(
            f"{destination} refers to audio files that no longer exist, such as {printable(first)}; "
            "delete that folder to prepare it again."
        )
    listed = outline.source.get(_SOURCES)
    if corpus.manifest.source.get(_SOURCES, listed) != listed:
        _logger.warning(
            "The list of files has changed since %s was prepared; it is used unchanged (delete it to prepare it "
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
    on_progress: OnProgress | None,
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
        file="" if journal.audio is not None else str(source.path.absolute()),
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
