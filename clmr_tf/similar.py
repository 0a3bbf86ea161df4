"""python -m clmr_tf.similar: finds the songs in a table of embeddings that are most similar to a song.

python -m clmr_tf.embed ~/Music --model savedmodels/mine --out music.npz
python -m clmr_tf.similar song.mp3 --index music.npz --model savedmodels/mine
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from clmr_tf.config.command_line import INCLUDED_MODEL, parse_command, require_model
from clmr_tf.console import printable, run_command, stdout
from clmr_tf.errors import UsageError


@dataclasses.dataclass(frozen=True)
class SimilarConfig:
    """Settings of the command."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Songs to compare with: audio files of any format, sample rate and length."""
    index: Path = Path("embeddings.npz")
    """Table written by `python -m clmr_tf.embed`, .npz or .parquet."""
    model: Path = INCLUDED_MODEL
    """Model folder or run folder; must be the one that the table was made with. Default: the model that a
    checkout includes."""
    top: int = 10
    """Number of songs to show."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid values."""
        if self.top < 1:
            raise UsageError(f"--top must be at least 1; received {self.top}.")


def main(arguments: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        ClmrError: If none of the songs could be used.
    """
    config = parse_command(
        SimilarConfig, arguments, program="python -m clmr_tf.similar", description="Finds songs that sound alike."
    )
    if not config.paths:
        raise UsageError("No song was given; give a file, as in `python -m clmr_tf.similar song.mp3`.")
    require_model(config.model)
    # Imported after the options are checked, because TensorFlow takes seconds to import.
    from clmr_tf.audio.isolation import IsolatedDecoder
    from clmr_tf.audio.listing import find_audio
    from clmr_tf.export.model_folder import weights_hash
    from clmr_tf.inference.embeddings import read_songs, stream_embeddings, usable
    from clmr_tf.inference.encoder import load_encoder
    from clmr_tf.inference.similarity import SongIndex, without

    files, skipped = find_audio(config.paths)
    songs = read_songs(config.index.expanduser())
    with IsolatedDecoder() as decoder:
        encoder = load_encoder(config.model)
        if weights_hash(encoder.model) != songs.metadata["model_hash"]:
            raise UsageError(
                f"{config.index} was made with another model than {config.model}; give that model with --model, or "
                "embed the files again."
            )
        index = SongIndex(songs.paths, songs.means)
        hop_seconds = songs.metadata["hop_num_samples"] / encoder.sample_rate_hz
        embeddings = stream_embeddings(encoder, files, decoder, hop_seconds=hop_seconds)
        for one in usable(itertools.chain(skipped, embeddings)):
            stdout.print(printable(str(one.path)) + " (is silent)" * one.is_silent, markup=False)
            nearest = index.nearest(one.vectors.mean(axis=0), config.top + 1)
            for neighbour in without(nearest, one.path, config.top):
                silent = " (is silent)" * (neighbour.path in songs.silent_paths)
                stdout.print(f"  {neighbour.cosine:7.4f}  {printable(neighbour.path)}{silent}", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
