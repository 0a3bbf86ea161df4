"""The demo corpus: excerpts of freely licensed music that come with this project.

    python -m pipelines.demo

ATTRIBUTION.md next to the audio lists every track with its author and licence.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from clmr_tf.config.command_line import parse_command
from clmr_tf.console import run_command, stdout
from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import ClmrError, UsageError
from pipelines.demo_data.tables import TRACKS_FILE, Track, read_tracks
from pipelines.preparation.command import prepare_shown, summarise
from pipelines.preparation.prepare import Preparation, PrepareSettings, default_destination
from pipelines.preparation.sources import SourceFile

NAME = "demo"
DATA = Path(__file__).parent / "demo_data"


@dataclasses.dataclass(frozen=True)
class Options(PrepareSettings):
    """The command line."""

    out: Path | None = None
    """Folder for the corpus: new, empty, or from an interrupted preparation; by default the folder in corpora/ where
    --corpus demo looks for it."""


def prepare_corpus(destination: Path, settings: PrepareSettings, data: Path = DATA) -> Corpus:
    """Prepares the demo corpus, with a progress bar; continues or reuses an existing corpus, see `prepare`.

    Splits are those of the table; the one tag of a track is its class. Every excerpt must be usable, regardless of
    `settings.max_skipped_fraction`.

    Args:
        destination: Folder of the corpus.
        settings: How files are decoded and which are accepted.
        data: Folder of tracks.csv and of the audio in it.

    Raises:
        UsageError: If the demo data is missing; see also `prepare`.
        ClmrError: If a file of the demo data is missing, damaged or cannot be decoded.
    """
    tracks = _read_tracks(data)
    sources = [
        SourceFile(
            data / track.file,
            item_id=track.file,
            song_id=track.song_id,
            source=track.file,
            split=track.split,
            tags=(track.class_name,),
        )
        for track in tracks
    ]
    return prepare_shown(
        Preparation(
            destination,
            dataclasses.replace(settings, max_skipped_fraction=0.0),
            sources,
            name=NAME,
            tag_names=sorted({track.class_name for track in tracks}),
            source_description="excerpts of freely licensed music, see ATTRIBUTION.md beside them",
        )
    )


def _read_tracks(data: Path) -> list[Track]:
    table = data / TRACKS_FILE
    if not table.is_file():
        raise UsageError(f"The demo music is not installed ({table} is missing); run from a clone of the repository.")
    tracks = read_tracks(data)
    for track in tracks:
        path = data / track.file
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        if digest != track.excerpt_sha256:
            state = "missing" if digest is None else "not the file that the table describes"
            raise ClmrError(f"{path} is {state}; restore it with `git checkout -- {path}`.")
    return sorted(tracks, key=lambda track: track.file)


def main(arguments: Sequence[str]) -> None:
    """The command, without the program's name in `arguments`."""
    options = parse_command(Options, arguments, program="python -m pipelines.demo", description=__doc__)
    out = options.out or default_destination(NAME, options)
    corpus = prepare_corpus(out.expanduser(), options)
    stdout.print(summarise(corpus), markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
