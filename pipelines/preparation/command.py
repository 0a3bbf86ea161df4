"""The command of a corpus: its options, its progress bar and its summary."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from clmr_tf.audio.decoding import NOT_AUDIO
from clmr_tf.audio.listing import counted_extensions
from clmr_tf.cluster import ClusterOptions
from clmr_tf.config.shards import Shard
from clmr_tf.console import shown_progress, stdout
from clmr_tf.data.corpus import SKIPPED_FILE, Corpus
from clmr_tf.data.index import INDEX_FILE, SPLITS
from clmr_tf.errors import UsageError
from pipelines.preparation.prepare import (
    Preparation,
    PrepareSettings,
    Progress,
    prepare,
    prepare_on_cluster,
    prepare_shard,
)
from pipelines.preparation.sources import counted_reasons, read_skipped

# The names of shards have five digits.
_MAX_NUM_SHARDS = 99_999


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
    hours = corpus.num_samples.sum() / manifest.sample_rate_hz / 3600
    splits = ", ".join(f"{manifest.num_items[split]:,} {split}" for split in SPLITS if split in manifest.num_items)
    sentence = f"{corpus.folder}: {len(corpus.items):,} items ({splits}), {hours:.2f} hours of audio"
    lost_seconds = corpus.index.column("lost_seconds").to_numpy()
    if num_damaged := np.count_nonzero(lost_seconds):
        are = "item is" if num_damaged == 1 else "items are"
        missing = f"{lost_seconds.sum():.1f} s missing (lost_seconds in {INDEX_FILE})"
        sentence += f"; {num_damaged:,} {are} damaged, with {missing}"
    if manifest.num_skipped:
        sentence += f"; left out: {counted_reasons(manifest.num_skipped)} (see {SKIPPED_FILE} there)"
        left_out = read_skipped(corpus.folder / SKIPPED_FILE)
        if no_audio := [file for file in left_out if file.reason == NOT_AUDIO]:
            sentence += f"; no audio: {counted_extensions(no_audio)}"
    return sentence + "."


def prepare_shown(preparation: Preparation) -> Corpus:
    """Prepares a corpus with a progress bar, see `prepare`."""
    with shown_preparation(preparation.name) as on_progress:
        return prepare(preparation, on_progress)


def prepare_as_asked(preparation: Preparation, options: "ShardOptions") -> None:
    """Prepares a corpus, in this process or on a cluster, or one of its shards; shows progress and prints a summary.

    Args:
        preparation: The corpus.
        options: The options of the command.
    """
    if options.cluster != "none":
        corpus = prepare_on_cluster(preparation, options, options.num_shards)
        stdout.print(summarise(corpus), markup=False)
        return
    if options.shard is None:
        stdout.print(summarise(prepare_shown(preparation)), markup=False)
        return
    with shown_preparation(preparation.name) as on_progress:
        finished = prepare_shard(preparation, Shard.parse(options.shard), on_progress)
    hours = finished.audio_seconds / 3600
    sentence = f"{finished.folder}: {finished.num_files:,} files, {hours:.2f} hours of audio"
    if finished.num_skipped:
        sentence += f"; left out: {counted_reasons(finished.num_skipped)}"
    merge = f"`python -m pipelines.merge {preparation.destination}`"
    stdout.print(f"{sentence}. When all shards are finished, run {merge}.", markup=False)


@dataclasses.dataclass(frozen=True)
class ShardOptions(ClusterOptions):
    """Options for a shard of a corpus, and for a cluster that prepares all shards."""

    shard: str | None = None
    """Prepare only one shard, K/N with K from 0 to N - 1: 3/16 is the 4th of 16. Shards may be prepared on any machine,
    in any order and several at once; `python -m pipelines.merge` makes the corpus of them."""
    num_shards: int | None = None
    """Number of shards on a cluster, which does not change the corpus. Default: one for each 1,000 files, 16 to 256."""

    def __post_init__(self) -> None:
        ClusterOptions.__post_init__(self)
        if self.shard is not None:
            Shard.parse(self.shard)
        if self.num_shards is not None and not 1 <= self.num_shards <= _MAX_NUM_SHARDS:
            raise UsageError(f"--num-shards must be 1 to {_MAX_NUM_SHARDS}; received {self.num_shards}.")
        if self.shard is not None and self.cluster != "none":
            raise UsageError("--cluster prepares all shards; leave out --shard.")
        if self.num_shards is not None and self.cluster == "none":
            raise UsageError("--num-shards is for --cluster; without it, give --shard.")


@dataclasses.dataclass(frozen=True)
class CorpusOptions(PrepareSettings):
    """Options of a published data set: the folders, and how files are prepared."""

    data: Path | None = None
    """Folder with the published files, as described above; by default the folder named there."""
    out: Path | None = None
    """Folder for the corpus: new, empty, or from an interrupted preparation; by default the folder in corpora/ where
    --corpus looks for a data set of this name."""


@dataclasses.dataclass(frozen=True)
class PublishedOptions(ShardOptions, CorpusOptions):
    """Options of a published data set whose tables list its files."""

    def __post_init__(self) -> None:
        ShardOptions.__post_init__(self)
        CorpusOptions.__post_init__(self)


@dataclasses.dataclass(frozen=True)
class DownloadOptions(PublishedOptions):
    """Options of a data set that anyone may download."""

    download: bool = False
    """Download missing files first; with this option, you accept the licence named above."""
