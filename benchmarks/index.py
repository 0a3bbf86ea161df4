"""python -m benchmarks.index: opening a corpus of many items and starting to read from it, as one JSON object.

Writes an index of invented items, three tags each, and PCM files without content that take no space on the disk. A new
process opens them (`load_seconds`) and reads the first batch as training does (`start_seconds`, which includes the
former; imports are not counted). `bytes_per_item` is the memory that the process needs at its peak while it opens the
corpus, in addition to that of the imports. `labels_seconds` is what half of the labels take after that: choosing them,
and a first batch with labels.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.peak_memory import peak_memory_mb
from clmr_tf.console import run_command, stdout
from clmr_tf.data.corpus import MANIFEST_FILE, PCM_DTYPE, AudioFile, CorpusManifest
from clmr_tf.data.index import INDEX_FILE, ROWS_PER_GROUP, parquet_writer, schema_of_index
from clmr_tf.files import sha256_of

ROOT = Path(__file__).parents[1]
SAMPLE_RATE_HZ = 22050
ITEM_NUM_SAMPLES = 30 * SAMPLE_RATE_HZ
NUM_TAGS, TAGS_PER_ITEM = 50, 3
CROP_NUM_SAMPLES = 59049


def write_invented_corpus(
    folder: Path, num_items: int, num_files: int, item_num_samples: int = ITEM_NUM_SAMPLES
) -> None:
    """Writes a corpus of silence, each item a song of its own, every tenth for validation.

    Args:
        folder: A new folder.
        num_items: Items, at least as many as files.
        num_files: PCM files, of the same number of items up to one.
        item_num_samples: Length of every item.
    """
    folder.mkdir(parents=True)
    digest = hashlib.sha256(bytes(PCM_DTYPE.itemsize * item_num_samples)).hexdigest()[:16]
    schema = schema_of_index([f"tag {number}" for number in range(NUM_TAGS)])
    with (folder / INDEX_FILE).open("wb") as file, parquet_writer(file, schema) as writer:
        for begin in range(0, num_items, ROWS_PER_GROUP):
            numbers = np.arange(begin, min(begin + ROWS_PER_GROUP, num_items))
            writer.write_table(_rows(numbers, item_num_samples, digest).cast(schema), ROWS_PER_GROUP)
    num_valid = -(-num_items // 10)
    counts = {"train": num_items - num_valid, "valid": num_valid}
    ends = [number * num_items // num_files * item_num_samples for number in range(num_files + 1)]
    audio_files = tuple(
        AudioFile(f"audio-{number:05d}.pcm", ends[number + 1] - ends[number]) for number in range(num_files)
    )
    for audio in audio_files:
        (folder / audio.file).touch()
        os.truncate(folder / audio.file, audio.num_samples * PCM_DTYPE.itemsize)
    manifest = CorpusManifest(
        name="invented",
        sample_rate_hz=SAMPLE_RATE_HZ,
        storage="pcm",
        tag_names=tuple(f"tag {number}" for number in range(NUM_TAGS)),
        num_items=counts,
        num_songs=counts,
        num_skipped={},
        source={},
        tool_versions={},
        fingerprint="0" * 64,
        index_sha256=sha256_of(folder / INDEX_FILE),
        audio_files=audio_files,
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def _rows(numbers: np.ndarray, item_num_samples: int, digest: str) -> pa.Table:
    text = pa.array(numbers).cast(pa.string())
    names = pc.binary_join_element_wise("artist/album/", text, ".flac", "")
    tags = np.random.default_rng(0).integers(0, NUM_TAGS // TAGS_PER_ITEM, [len(numbers), TAGS_PER_ITEM])
    tags = (tags * TAGS_PER_ITEM + np.arange(TAGS_PER_ITEM)).astype(np.int32)
    same = {
        "file": pa.scalar(b""),
        "digest": pa.scalar(digest),
        "num_samples": pa.scalar(item_num_samples),
        "source_rate_hz": pa.scalar(44100, pa.int32()),
        "source_num_channels": pa.scalar(2, pa.int32()),
        "source_num_bytes": pa.scalar(4_000_000),
        "lost_seconds": pa.scalar(0.0),
    }
    columns = {
        "id": names,
        "song_id": names,
        "song": pa.array(numbers, pa.int32()),
        "source": names.cast(pa.binary()),
        "split": pa.array(numbers % 10 == 0).cast(pa.int8()),
        "tags": pa.ListArray.from_arrays(
            np.arange(0, TAGS_PER_ITEM * len(numbers) + 1, TAGS_PER_ITEM, np.int32), tags.ravel()
        ),
        "offset_samples": pa.array(numbers * item_num_samples),
        **{name: pa.repeat(value, len(numbers)) for name, value in same.items()},
    }
    return pa.table({name: columns[name] for name in schema_of_index().names})


def measure(num_items: int, num_files: int, parent: Path | None) -> dict[str, float]:
    """Writes a corpus and opens it in a new process."""
    with tempfile.TemporaryDirectory(dir=parent, prefix="benchmark-") as folder:
        corpus = Path(folder) / "corpus"
        write_invented_corpus(corpus, num_items, num_files)
        command = [sys.executable, "-m", "benchmarks.index", "--opened", str(corpus)]
        finished = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        index_num_bytes = (corpus / INDEX_FILE).stat().st_size
    opened = json.loads(finished.stdout)
    return {"num_items": num_items, "num_files": num_files, "index_megabytes": index_num_bytes / 2**20, **opened}


def measure_here(folder: Path) -> dict[str, float]:
    """Opens a corpus in this process and reads the first batch."""
    from clmr_tf.data.crops import labelled_dataset, num_units, pair_dataset
    from clmr_tf.data.labels import choose_labels
    from clmr_tf.data.resolution import resolve_corpus

    before_mb, begin, cpu_begin = peak_memory_mb(), time.perf_counter(), time.process_time()
    corpus = resolve_corpus(
        str(folder), corpora=folder, sample_rate_hz=SAMPLE_RATE_HZ, clip_num_samples=CROP_NUM_SAMPLES
    )
    load_seconds, load_cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    load_mb = peak_memory_mb()
    num_units(corpus, "train", "song")
    batch = {"batch_size": 48, "clip_num_samples": CROP_NUM_SAMPLES, "seed": 0}
    next(iter(pair_dataset(corpus, "train", **batch)))
    start_seconds, start_cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    start_mb, labelled_begin = peak_memory_mb(), time.perf_counter()
    choose_labels(corpus, np.arange(len(corpus.rows_of("train"))), song_fraction=0.5)
    next(iter(labelled_dataset(corpus, "train", **batch)))
    return {
        "load_seconds": load_seconds,
        "load_cpu_seconds": load_cpu_seconds,
        "bytes_per_item": (load_mb - before_mb) * 2**20 / len(corpus.items),
        "load_peak_megabytes": load_mb,
        "start_seconds": start_seconds,
        "start_cpu_seconds": start_cpu_seconds,
        "start_peak_megabytes": start_mb,
        "labels_seconds": time.perf_counter() - labelled_begin,
        "labels_peak_megabytes": peak_memory_mb(),
    }


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="items of the corpus (default: 1,000,000)")
    parser.add_argument("--files", type=int, default=256, help="PCM files (default: 256)")
    parser.add_argument("--folder", type=Path, help="where to write the corpus (default: for temporary files)")
    parser.add_argument("--opened", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if not 1 <= options.files <= options.items or options.items < 100:
        parser.error("--items must be at least 100, and --files from 1 to --items")
    result = measure_here(options.opened) if options.opened else measure(options.items, options.files, options.folder)
    stdout.out(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
