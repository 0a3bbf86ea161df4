"""Prepares a corpus from the tables of a published data set and those of its audio files that exist."""

import collections
import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from clmr_tf.audio.listing import SkippedFile
from clmr_tf.config.command_line import parse_command
from clmr_tf.data.corpus import MANIFEST_FILE, Corpus
from clmr_tf.data.index import SPLITS
from clmr_tf.errors import UsageError
from pipelines.preparation.command import PublishedOptions, prepare_as_asked, prepare_shown
from pipelines.preparation.prepare import Preparation, PrepareSettings, default_destination
from pipelines.preparation.sources import SourceFile

_logger = logging.getLogger(__name__)

MISSING = "missing"
# Default folder of the published files, with a folder for each data set.
DATA = Path("data")


@dataclasses.dataclass(frozen=True)
class PublishedCorpus:
    """The content of a data set's tables.

    Attributes:
        name: Name of the corpus; a different one for every published split, so no table mixes them.
        tag_names: All tags in the published order.
        sources: One for every recording of the split, whether or not its file exists.
        description: Where the music came from.
        options: Other options that the list depends on.
    """

    name: str
    tag_names: Sequence[str]
    sources: Sequence[SourceFile]
    description: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


def plan_published(published: PublishedCorpus, destination: Path, settings: PrepareSettings) -> Preparation:
    """Plans a corpus of the recordings whose files exist. The others are listed in skipped.jsonl as "missing".

    Args:
        published: The content of its tables.
        destination: Folder of the corpus.
        settings: How files are decoded, and which fraction of them may be missing.

    Raises:
        UsageError: If more than `settings.max_skipped_fraction` of the files are missing.
    """
    sources = songs_in_one_split(published.sources)
    present = [source for source in sources if source.path.is_file()]
    present_ids = {source.item_id for source in present}
    missing = [source for source in sources if source.item_id not in present_ids]
    _require_enough(published, missing, settings)
    if missing and not (destination / MANIFEST_FILE).is_file():
        _logger.warning("%d of the %d audio files of %s are missing.", len(missing), len(sources), published.name)
    return Preparation(
        destination,
        settings,
        present,
        name=published.name,
        tag_names=published.tag_names,
        source_description=published.description,
        options={"corpus": published.name, **published.options},
        rejected=[SkippedFile(source.source, MISSING, "there is no such file") for source in missing],
    )


def songs_in_one_split(sources: Sequence[SourceFile]) -> list[SourceFile]:
    """Turns a song that a data set has in two splits into two songs, with a warning.

    The published splits are not changed, since results could not be compared if songs were moved.
    """
    splits_of: dict[str, set[str]] = collections.defaultdict(set)
    for source in sources:
        splits_of[source.song_id].add(source.split)
    num_shared = sum(len(splits) > 1 for splits in splits_of.values())
    if not num_shared:
        return list(sources)
    _logger.warning("%d songs of the published split are in more than one of %s.", num_shared, ", ".join(SPLITS))
    return [
        dataclasses.replace(source, song_id=f"{source.song_id} ({source.split})")
        if len(splits_of[source.song_id]) > 1
        else source
        for source in sources
    ]


def require_files(data: Path, names: Iterable[str], program: str) -> None:
    """Raises UsageError unless `data` contains all of these files."""
    missing = [name for name in names if not (data / name).is_file()]
    if missing:
        raise UsageError(f"{data / missing[0]} is missing; `python -m {program} --help` says where it comes from.")


Options = TypeVar("Options", bound=PublishedOptions)


@dataclasses.dataclass
class PublishedPipeline(Generic[Options]):
    """The function and the command of a published data set.

    Attributes:
        name: Name of the pipeline.
        data: Folder of the published files, without --data.
        read_corpus: Reads the tables, given the options and the folder of the published files.
        options_type: Dataclass of the options.
        description: Text of `--help`.
    """

    name: str
    data: Path
    read_corpus: Callable[[Options, Path], PublishedCorpus]
    options_type: type[Options]
    description: str

    def prepare_corpus(self, destination: Path, settings: PrepareSettings, data: Path | None = None) -> Corpus:
        """Prepares the corpus of the default options, with a progress bar; see `plan_published` and `prepare`.

        Args:
            destination: Folder of the corpus.
            settings: How files are decoded and which are accepted.
            data: Folder of the published files, if it is not the default.

        Raises:
            UsageError: If a table is missing or is not the published one; see also `plan_published` and `prepare`.
            ClmrError: See `prepare`.
        """
        published = self.read_corpus(self.options_type(), data or self.data)
        return prepare_shown(plan_published(published, destination, settings))

    def main(self, arguments: Sequence[str]) -> None:
        """The command: prepares the corpus or one of its shards, and prints a summary.

        Args:
            arguments: The command line without the program's name.
        """
        program = f"python -m pipelines.{self.name}"
        options = parse_command(self.options_type, arguments, program=program, description=self.description)
        published = self.read_corpus(options, (options.data or self.data).expanduser())
        destination = (options.out or default_destination(self.name, options)).expanduser()
        prepare_as_asked(plan_published(published, destination, options), options)


def _require_enough(published: PublishedCorpus, missing: Sequence[SourceFile], settings: PrepareSettings) -> None:
    num_files = len(published.sources)
    if len(missing) > settings.max_skipped_fraction * num_files or len(missing) == num_files:
        raise UsageError(
            f"{len(missing):,} of the {num_files:,} audio files of {published.name} are missing, such as "
            f"{missing[0].path}; put them there, or allow a larger --max-skipped-fraction."
        )
