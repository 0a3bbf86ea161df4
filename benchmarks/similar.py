"""python -m benchmarks.similar: how fast, and how reliably, the nearest of many songs are found.

Prints one JSON object. The table has drawn embeddings in the format of `python -m clmr_tf.embed`, without windows. They
are distributed like those of 107 recordings by 11 composers, embedded by an earlier included model: the norm of
the mean of unit vectors, the decay of the variances, and how much of them is within the songs of a composer.
`recall_at_10` compares the approximate index with exact search; `milliseconds` is the median time of a query by the
index, `exact_milliseconds` that of an exact search, which reads the whole table. Memory-mapped pages of the index count
as memory (in units of 2^20 bytes).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peak_memory import peak_memory_mb
from clmr_tf.console import run_command, stdout
from clmr_tf.inference.approximate_index import INDEX_FOLDER, update_index
from clmr_tf.inference.embeddings import FileEmbedding
from clmr_tf.inference.shards import FILES_PER_PART
from clmr_tf.inference.similarity import nearest_in_blocks
from clmr_tf.inference.tables import (
    SONGS_FOLDER,
    WINDOWS_FOLDER,
    ListedFile,
    Manifest,
    SongTable,
    TableSettings,
    write_part,
)

NUM_NEIGHBOURS = 10
EMBEDDING_DIM = 512
_SONGS_PER_ARTIST = 20
_NORM_OF_MEAN = 0.64
_FRACTION_WITHIN_ARTISTS = 0.55
_SETTINGS = TableSettings("drawn", 22050, 59049, 59049, EMBEDDING_DIM)


def measure(num_songs: int, num_queries: int, folder: Path) -> dict[str, Any]:
    """Writes a table into `folder`, and searches it in both ways."""
    _, table_seconds = _timed(lambda: write_table(folder, num_songs))
    table = SongTable(folder)
    blocks = np.random.default_rng(0).integers(-(-num_songs // FILES_PER_PART), size=num_queries)
    queries = [drawn_songs(block, 1, is_query=True)[0] for block in blocks]
    _, exact_seconds = _timed(lambda: nearest_in_blocks(table.blocks(), queries[:1], NUM_NEIGHBOURS))
    exact = nearest_in_blocks(table.blocks(), queries, NUM_NEIGHBOURS)
    memory_before = peak_memory_mb()
    _, build_seconds = _timed(lambda: update_index(table))
    index, open_seconds = _timed(lambda: update_index(table))
    seconds, recalls = [], []
    for query, expected in zip(queries, exact, strict=True):
        found, one = _timed(lambda query=query: index.nearest(query, NUM_NEIGHBOURS))
        seconds.append(one)
        recalls.append(len({one.path for one in found} & {one.path for one in expected}) / NUM_NEIGHBOURS)
    return {
        "num_songs": num_songs,
        "num_queries": num_queries,
        "table_seconds": table_seconds,
        "exact_milliseconds": 1000 * exact_seconds,
        "build_seconds": build_seconds,
        "open_seconds": open_seconds,
        "recall_at_10": statistics.mean(recalls),
        "milliseconds": 1000 * statistics.median(seconds),
        "slowest_milliseconds": 1000 * max(seconds),
        "index_bytes_per_song": sum(file.stat().st_size for file in (folder / INDEX_FOLDER).iterdir()) / num_songs,
        "megabytes_before_index": memory_before,
        "peak_megabytes": peak_memory_mb(),
    }


def write_table(table: Path, num_songs: int) -> None:
    """Writes a table of drawn songs; the windows, which searches do not read, are removed again."""
    for folder in (SONGS_FOLDER, WINDOWS_FOLDER):
        (table / folder).mkdir()
    parts = []
    for first in range(0, num_songs, FILES_PER_PART):
        songs = drawn_songs(first // FILES_PER_PART, min(FILES_PER_PART, num_songs - first))
        files = [ListedFile(f"/music/{first + row:08d}.mp3", 1, 1) for row in range(len(songs))]
        embedded = [FileEmbedding(Path(), song[None], np.zeros(1), 240.0, False) for song in songs]
        parts.append(write_part(table, _SETTINGS, files, embedded))
        (table / WINDOWS_FOLDER / f"{parts[-1].name}.parquet").unlink()
    Manifest(_SETTINGS, tuple(parts)).write(table)


def drawn_songs(block: int, num_songs: int, *, is_query: bool = False) -> np.ndarray:
    """Embeddings of the first songs of a block, or of other songs by the same artists."""
    # The variances of the principal components of real embeddings decay like this.
    deviations = (1 + np.arange(EMBEDDING_DIM, dtype=np.float32) / 4) ** -1
    deviations *= np.sqrt((1 - _NORM_OF_MEAN**2) / np.sum(deviations**2))
    num_artists = -(-FILES_PER_PART // _SONGS_PER_ARTIST)
    artists = np.random.default_rng(block).standard_normal((num_artists, EMBEDDING_DIM), np.float32)
    songs = np.random.default_rng([block, 1 + is_query]).standard_normal((num_songs, EMBEDDING_DIM), np.float32)
    songs *= np.float32(np.sqrt(_FRACTION_WITHIN_ARTISTS))
    songs += np.sqrt(1 - _FRACTION_WITHIN_ARTISTS) * artists[np.arange(num_songs) // _SONGS_PER_ARTIST]
    songs *= deviations
    # The mean is orthogonal to most of the variance.
    songs[:, -1] += _NORM_OF_MEAN
    return songs


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.similar", description=__doc__)
    parser.add_argument("--songs", type=int, default=100_000, help="songs in the table (default: 100,000)")
    parser.add_argument("--queries", type=int, default=100, help="query songs (default: 100)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.songs < NUM_NEIGHBOURS or options.queries < 1:
        parser.error(f"--songs must be at least {NUM_NEIGHBOURS} and --queries at least 1")
    with tempfile.TemporaryDirectory() as folder:
        stdout.out(json.dumps(measure(options.songs, options.queries, Path(folder)), indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
