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

from clmr_tf.config.command_line import DEMO_MODEL, parse_command, require_model
from clmr_tf.console import printable, run_command, stdout
from clmr_tf.errors import UsageError


@dataclasses.dataclass(frozen=True)
class SimilarConfig:
    """Settings of the command."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Songs to compare with: audio files of any format, sample rate and length."""
    index: Path = Path("embeddings.npz")
    """Table written by `python -m clmr_tf.embed`: an .npz file or a folder."""
    model: Path = DEMO_MODEL
    """Model folder or run folder; must be the one that the table was made with. Default: the demo model of a
    checkout."""
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
    from clmr_tf.inference.embeddings import stream_embeddings, usable
    from clmr_tf.inference.encoder import load_encoder
    from clmr_tf.inference.similarity import nearest_in_blocks, without
    from clmr_tf.inference.tables import SongTable

    table = SongTable(config.index.expanduser())
    files, skipped = find_audio(config.paths)
    with IsolatedDecoder() as decoder:
        encoder = load_encoder(config.model)
        if encoder.model_hash != table.model_hash:
            raise UsageError(
                f"{config.index} was made with another model than {config.model}; give that model with --model, or "
                "embed the files again."
            )
        hop_seconds = table.hop_num_samples / encoder.sample_rate_hz
        embeddings = stream_embeddings(encoder, files, decoder, hop_seconds=hop_seconds)
        # Of a song with many windows, only the mean is kept.
        queries = [
            (one.path, one.is_silent, one.vectors.mean(axis=0)) for one in usable(itertools.chain(skipped, embeddings))
        ]
    found = nearest_in_blocks(table.blocks(), [vector for *_, vector in queries], config.top + 1)
    for (path, is_silent, _), nearest in zip(queries, found, strict=True):
        stdout.print(printable(str(path)) + " (is silent)" * is_silent, markup=False)
        for neighbour in without(nearest, path, config.top):
            silent = " (is silent)" * neighbour.is_silent
            stdout.print(f"  {neighbour.cosine:7.4f}  {printable(neighbour.path)}{silent}", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
