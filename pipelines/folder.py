"""A corpus from any folder of music.

    python -m pipelines.folder ~/Music --out corpora/music

Every audio file below the folder becomes one item and one song; copies of a recording under other names are one song.
Rerun the command to resume an interrupted preparation. With --shard, several machines prepare a folder, and
`python -m pipelines.merge` makes the corpus of what they prepared. Any audio format, sample rate and number of channels
is accepted; files that cannot be used are left out, and skipped.jsonl in the corpus gives the reasons.

Splits: if all sub-folders with audio are called train, valid or test (train and at least one other), they are the
splits. Otherwise a hash of a song's path (of copies, the first path) decides. By default a tenth of the songs is for
validation: one of 2 to 14 songs, and none if there is only one.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import tyro

from clmr_tf.audio.listing import Listing, list_audio
from clmr_tf.config.command_line import parse_command
from clmr_tf.console import printable, run_command, stderr
from clmr_tf.data.corpus import MANIFEST_FILE, Corpus
from clmr_tf.data.index import SPLITS
from clmr_tf.errors import UsageError
from pipelines.preparation.command import ShardOptions, prepare_as_asked, prepare_shown, summarise
from pipelines.preparation.merging import SongsOfCopies
from pipelines.preparation.prepare import Preparation, PrepareSettings
from pipelines.preparation.sources import SourceFile, counted, split_songs


@dataclasses.dataclass(frozen=True)
class FolderSettings:
    """Splits and tags of the files of a folder."""

    valid_fraction: float = 0.1
    """Fraction of the songs, from 0 to 1, for validation; at least one song if there are two."""
    test_fraction: float = 0.0
    """Fraction of the songs, from 0 to 1, for testing; at least one song if there are three."""
    tags: Literal["none", "folder"] = "none"
    """"folder": the tag of a file is its first-level sub-folder (below train, valid, test if these are the splits)."""

    def __post_init__(self) -> None:
        if min(self.valid_fraction, self.test_fraction) < 0 or self.valid_fraction + self.test_fraction >= 1:
            raise UsageError(
                f"The fractions for valid ({self.valid_fraction:g}) and test ({self.test_fraction:g}) must be at least "
                "0 and leave songs to train on; make them smaller."
            )


@dataclasses.dataclass(frozen=True)
class Options(FolderSettings, ShardOptions, PrepareSettings):
    """The command line."""

    folder: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="MUSIC")]] = None
    """Folder of music; its sub-folders are included."""
    out: Path | None = None
    """Folder for the corpus: new, empty, or from an interrupted preparation."""

    def __post_init__(self) -> None:
        FolderSettings.__post_init__(self)
        ShardOptions.__post_init__(self)
        PrepareSettings.__post_init__(self)


def prepare_corpus(
    folder: Path,
    destination: Path,
    settings: PrepareSettings,
    folder_settings: FolderSettings = FolderSettings(),
) -> Corpus:
    """Prepares a folder of music, with a progress bar; continues or reuses an existing corpus, see `prepare`.

    The summary of a new corpus is printed on standard error.

    Args:
        folder: Folder of music.
        destination: Folder of the corpus.
        settings: How files are decoded and which are accepted.
        folder_settings: Splits and tags.

    Raises:
        UsageError: If the folder is missing, is a file, or has no audio; see also `prepare`.
        ClmrError: If more files than allowed cannot be used.
    """
    is_new = not (destination / MANIFEST_FILE).is_file()
    corpus = prepare_shown(plan_corpus(folder, destination, settings, folder_settings))
    if is_new:
        stderr.print(summarise(corpus), markup=False)
    return corpus


def plan_corpus(
    folder: Path, destination: Path, settings: PrepareSettings, folder_settings: FolderSettings
) -> Preparation:
    """Lists a folder of music; the arguments and errors are those of `prepare_corpus`."""
    listing = _list(folder, destination)
    sources = sources_of(folder, listing.audio, folder_settings)
    name = printable(folder.resolve().name) or "music"
    return Preparation(
        destination,
        settings,
        sources,
        name=name,
        tag_names=sorted({tag for source in sources for tag in source.tags}),
        source_description=f"the folder {name}",
        # Only those options that the list of files depends on.
        options={field.name: str(getattr(folder_settings, field.name)) for field in dataclasses.fields(FolderSettings)},
        rejected=listing.rejected,
        copies=SongsOfCopies(
            folder_settings.valid_fraction,
            folder_settings.test_fraction,
            keep_splits=_folders_are_splits(listing.audio),
        ),
    )


def sources_of(folder: Path, names: Sequence[str], folder_settings: FolderSettings) -> list[SourceFile]:
    """The files with their ids, splits and tags.

    Args:
        folder: The folder.
        names: Paths of the files relative to it.
        folder_settings: Splits and tags.

    Raises:
        UsageError: If tags are taken from folders and there are none.
    """
    ids = {name: printable(name) for name in names}
    are_splits = _folders_are_splits(names)
    drawn = (
        {} if are_splits else split_songs(ids.values(), folder_settings.valid_fraction, folder_settings.test_fraction)
    )
    sources = [
        SourceFile(
            path=folder / name,
            item_id=ids[name],
            song_id=ids[name],
            source=name,
            split=name.split("/")[0].lower() if are_splits else drawn[ids[name]],
            tags=_tags(name, int(are_splits)) if folder_settings.tags == "folder" else (),
        )
        for name in names
    ]
    if folder_settings.tags == "folder" and not any(source.tags for source in sources):
        raise UsageError(f"{folder} has no sub-folders that could be tags; use --tags none.")
    return sources


def _list(folder: Path, destination: Path) -> Listing:
    if not folder.exists():
        raise UsageError(f"The folder {folder} does not exist; give the folder that contains the music.")
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; give the folder that contains the music.")
    try:
        listing = list_audio(folder, leave_out=destination)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be listed ({error.strerror}); change its permissions.") from error
    if not listing.audio:
        found = f"only other files ({counted(listing.rejected)})" if listing.rejected else "no files at all"
        raise UsageError(f"The folder {folder} contains no audio, {found}; give the folder that contains the music.")
    return listing


def _folders_are_splits(names: Sequence[str]) -> bool:
    # A file outside of these folders has the folder "", which is no split.
    folders = {name.split("/")[0].lower() if "/" in name else "" for name in names}
    return "train" in folders and len(folders) > 1 and folders <= set(SPLITS)


def _tags(name: str, depth: int) -> tuple[str, ...]:
    folders = PurePosixPath(name).parts[:-1]
    return (printable(folders[depth]),) if len(folders) > depth else ()


def main(arguments: Sequence[str]) -> None:
    """The command, without the program's name in `arguments`."""
    options = parse_command(Options, arguments, program="python -m pipelines.folder", description=__doc__)
    if options.folder is None or options.out is None:
        raise UsageError("Give a folder of music, and a folder for the corpus with --out: `MUSIC --out corpora/mine`.")
    folder, destination = options.folder.expanduser(), options.out.expanduser()
    prepare_as_asked(plan_corpus(folder, destination, options, options), options)


if __name__ == "__main__":
    sys.exit(run_command(main))
