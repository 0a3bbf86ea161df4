"""python -m clmr_tf.similar: finds the songs in a table of embeddings that are most similar to a song.

python -m clmr_tf.embed ~/Music --model savedmodels/mine --out music
python -m clmr_tf.similar song.mp3 --index music --model savedmodels/mine
python -m clmr_tf.similar --index music --build-index
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from clmr_tf.config.command_line import INCLUDED_MODEL, Runtime, parse_command, require_model
from clmr_tf.console import printable, run_command, shown_progress, stdout
from clmr_tf.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from clmr_tf.inference.similarity import Neighbour
    from clmr_tf.inference.tables import SongTable

    Search = Callable[[Sequence[np.ndarray], int], Sequence[Sequence[Neighbour]]]

_MAX_EXACT_SONGS = 1_000_000


@dataclasses.dataclass(frozen=True)
class SimilarConfig:
    """Settings of the command."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Songs to compare with: audio files of any format, sample rate and length."""
    index: Path = Path("embeddings.npz")
    """Table written by `python -m clmr_tf.embed`: an .npz file or a folder."""
    model: Path = INCLUDED_MODEL
    """Model folder or run folder; must be the one that the table was made with. Default: the included
    model."""
    runtime: Runtime = "auto"
    """What runs the model. "auto" takes the fastest of those that are installed, have their file in the model folder,
    and compute in float32; "litert-int8" is not exact, and faster on processors with VNNI instructions."""
    top: int = 10
    """Number of songs to show."""
    build_index: bool = False
    """Build an approximate index in the folder of the table, which is then always used. Tables of more than a million
    songs get one anyway."""

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
    if not config.paths and not config.build_index:
        raise UsageError("No song was given; give a file, as in `python -m clmr_tf.similar song.mp3`.")
    if config.paths:
        require_model(config.model)
        _compare(config)
    else:
        # Imported after the options are checked, because it takes time.
        from clmr_tf.inference.tables import SongTable

        _search(SongTable(config.index.expanduser()), build_index=True)


def _search(table: "SongTable", *, build_index: bool) -> "Search":
    """Finds the nearest songs of several queries: exactly, or by the index, which is brought up to date first."""
    from clmr_tf.inference.approximate_index import has_index, update_index
    from clmr_tf.inference.similarity import nearest_in_blocks

    if build_index and not table.parts:
        raise UsageError(f"--build-index needs a table that is a folder; received {table.path}.")
    if not (build_index or has_index(table.path) or (table.parts and table.num_songs > _MAX_EXACT_SONGS)):
        return lambda vectors, count: nearest_in_blocks(table.blocks(), vectors, count)
    with shown_progress() as show:
        index = update_index(table, lambda done, of: show(done, of, "indexing", f"Indexed {done:,} of {of:,} songs."))
    return lambda vectors, count: [index.nearest(vector, count) for vector in vectors]


def _compare(config: SimilarConfig) -> None:
    from clmr_tf.audio.isolation import IsolatedDecoder

    with IsolatedDecoder() as decoder:
        # Imported while the decoder starts, because both take time.
        from clmr_tf.audio.listing import find_audio
        from clmr_tf.export.model_folder import is_same_model
        from clmr_tf.inference.embeddings import stream_embeddings, usable
        from clmr_tf.inference.encoder import load_encoder
        from clmr_tf.inference.similarity import without
        from clmr_tf.inference.tables import SongTable

        files, skipped = find_audio(config.paths)
        table = SongTable(config.index.expanduser())
        encoder = load_encoder(config.model, config.runtime)
        if encoder.model_hash != table.model_hash:
            if is_same_model(encoder.model_hash, table.model_hash):
                runtime = "litert-int8" if table.model_hash.endswith("-int8") else "auto"
                raise UsageError(
                    f"{config.index} was not made with the runtime {encoder.runtime}; use --runtime {runtime}, or "
                    "embed the files again."
                )
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
    # One more than requested, since the song itself may be in the table.
    search = _search(table, build_index=config.build_index)
    found = search([vector for *_, vector in queries], config.top + 1)
    for (path, is_silent, _), nearest in zip(queries, found, strict=True):
        stdout.print(printable(str(path)) + " (is silent)" * is_silent, markup=False)
        for neighbour in without(nearest, path, config.top):
            silent = " (is silent)" * neighbour.is_silent
            stdout.print(f"  {neighbour.cosine:7.4f}  {printable(neighbour.path)}{silent}", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
