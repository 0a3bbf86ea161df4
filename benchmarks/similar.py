"""python -m benchmarks.similar: how fast the nearest of many songs are found.

Prints one JSON object. The table has random vectors in the format of `python -m clmr_tf.embed`; `open_seconds` is the
time of reading it once, `answer_ms` that of a query. `ratio_to_scikit_learn` is the time of scikit-learn's exact cosine
search divided by ours.
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
from sklearn.neighbors import NearestNeighbors

from clmr_tf.console import run_command, stdout
from clmr_tf.inference.embeddings import FORMAT_VERSION, FileEmbedding, read_songs, write_table
from clmr_tf.inference.similarity import SongIndex
from clmr_tf.models import EMBEDDING_DIM

NUM_NEIGHBOURS = 10


def measure(num_songs: int, num_queries: int) -> dict[str, Any]:
    """Draws songs and queries, and times both searches alternately; they must agree."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((num_songs, EMBEDDING_DIM), np.float32)
    queries = generator.standard_normal((num_queries, EMBEDDING_DIM), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "songs.npz"
        times = np.zeros(1)
        songs = [
            FileEmbedding(Path(f"{row}.mp3"), vectors[row : row + 1], times, 30.0, False) for row in range(num_songs)
        ]
        metadata = {"format_version": FORMAT_VERSION, "model_hash": "drawn", "hop_num_samples": 1}
        write_table(table, songs, [], metadata)
        del songs
        index, open_seconds = _timed(lambda: _open(table))
    others = NearestNeighbors(n_neighbors=NUM_NEIGHBOURS, metric="cosine", algorithm="brute").fit(vectors)
    ours, theirs = [], []
    for query in queries:
        found, seconds = _timed(lambda query=query: index.nearest(query, NUM_NEIGHBOURS))
        ours.append(seconds)
        (_, rows), seconds = _timed(lambda query=query: others.kneighbors(query[None]))
        theirs.append(seconds)
        if [one.path for one in found] != [f"{row}.mp3" for row in rows[0]]:
            raise AssertionError("The two searches found different songs.")
    return {
        "num_songs": num_songs,
        "num_queries": num_queries,
        "open_seconds": open_seconds,
        "answer_ms": 1000 * statistics.median(ours),
        "slowest_answer_ms": 1000 * max(ours),
        "ratio_to_scikit_learn": statistics.median(theirs) / statistics.median(ours),
    }


def _open(table: Path) -> SongIndex:
    songs = read_songs(table)
    return SongIndex(songs.paths, songs.means)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.similar", description=__doc__)
    parser.add_argument("--num-songs", type=int, default=100_000, help="songs in the table (default: 100,000)")
    parser.add_argument("--num-queries", type=int, default=50, help="query songs (default: 50)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.num_songs < NUM_NEIGHBOURS or options.num_queries < 1:
        parser.error(f"--num-songs must be at least {NUM_NEIGHBOURS} and --num-queries at least 1")
    stdout.out(json.dumps(measure(options.num_songs, options.num_queries), indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
