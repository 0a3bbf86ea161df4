"""python -m benchmarks.clips: the cost of reading a pair of crops, as one JSON object.

Reads pairs of a prepared corpus as training does, after one pass that fills the file cache. All cores may be used;
the cost is the CPU time of the process, summed over cores. `by_num_files` is the cost for a corpus of 512 invented
items of 10 seconds in 1, 16 and 256 PCM files.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.index import write_invented_corpus
from clmr_tf.console import run_command, stdout
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import pair_dataset
from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES

SAMPLE_RATE_HZ, CROP_NUM_SAMPLES = next(iter(CLIP_NUM_SAMPLES.items()))
NUM_FILES = (1, 16, 256)


def measure(corpus: str, corpora: Path, batch_size: int, num_batches: int) -> dict[str, Any]:
    """Returns CPU and wall-clock milliseconds per pair, and pairs per second of one core."""
    prepared = resolve_corpus(corpus, corpora=corpora, sample_rate_hz=SAMPLE_RATE_HZ, clip_num_samples=CROP_NUM_SAMPLES)
    result = measure_pairs(prepared, batch_size, num_batches)
    by_num_files = {}
    for num_files in NUM_FILES:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            write_invented_corpus(Path(folder) / "corpus", 512, num_files, 10 * SAMPLE_RATE_HZ)
            invented = measure_pairs(Corpus.open(Path(folder) / "corpus"), batch_size, num_batches)
        by_num_files[str(num_files)] = {name: invented[name] for name in ("cpu_ms_per_pair", "wall_ms_per_pair")}
    return {**result, "by_num_files": by_num_files}


def measure_pairs(prepared: Corpus, batch_size: int, num_batches: int) -> dict[str, Any]:
    """The same for one corpus."""
    dataset = pair_dataset(prepared, "train", batch_size=batch_size, clip_num_samples=CROP_NUM_SAMPLES, seed=0)
    batches = iter(dataset)
    for _ in range(num_batches):
        next(batches)
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(num_batches):
        next(batches)
    num_pairs = batch_size * num_batches
    cpu_seconds = time.process_time() - cpu_start
    return {
        "corpus": prepared.manifest.name,
        "num_pairs": num_pairs,
        "cpu_ms_per_pair": 1000 * cpu_seconds / num_pairs,
        "wall_ms_per_pair": 1000 * (time.perf_counter() - wall_start) / num_pairs,
        "pairs_per_core_second": num_pairs / cpu_seconds,
    }


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clips", description=__doc__)
    parser.add_argument("--corpus", default="demo", help="corpus, as in clmr_tf.train (default: demo)")
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), help="folder of prepared corpora")
    parser.add_argument("--batch-size", type=int, default=48, help="pairs per batch (default: 48)")
    parser.add_argument("--num-batches", type=int, default=60, help="batches to time (default: 60)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if min(options.batch_size, options.num_batches) < 1:
        parser.error("--batch-size and --num-batches must be at least 1")
    result = measure(options.corpus, options.corpora, options.batch_size, options.num_batches)
    stdout.out(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
