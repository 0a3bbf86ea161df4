"""python -m benchmarks.embed: how fast a model embeds files, in every runtime that it is exported for.

Prints one JSON object. All ratios compare figures of this run: each runtime has its own process, and they take turns.
The table `runtimes` has a row for each runtime of `load_encoder`: `real_time` and `real_time_per_core` of a folder of
MP3 and Ogg Vorbis files, decoding included; `start_seconds`, how long `python -m clmr_tf.tag` takes for the first of
them; `latency_ms` of one window and the rate of many. Files that other programs run have only the last two. PyTorch,
with the original's layers, gets the decoded audio, so `ratio_to_pytorch` of a folder is a lower bound. The encoder is
not trained, which does not change its speed. Missing figures are null, with the reason in `absent`.
"""

import argparse
import collections
import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.pytorch_environment import NOT_REQUESTED, python_with_pytorch
from benchmarks.runtime_embedding import SAVED_MODEL
from benchmarks.worker import ROOT, Worker, WorkerFailedError
from clmr_tf.audio.decoding import load_audio
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import ClmrError
from clmr_tf.export.runtime_formats import FORMATS
from clmr_tf.hardware import num_usable_cores
from clmr_tf.inference.encoder import RUNTIMES
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.heads import Head

SAMPLE_RATE_HZ = 22050
# As in MagnaTagATune.
NUM_TAGS = 50
DEMO_MUSIC = ROOT / "pipelines" / "demo_data" / "audio"


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Makes music and a model in `folder`, lets the workers take turns, and collects the figures."""
    audio_seconds = write_music(folder, options.num_files)
    absent = export_everything(folder / "model", options.width)
    measured: dict[str, dict[str, list[float]]] = {}
    decoding: list[float] = []
    with contextlib.ExitStack() as stack:
        workers = dict(_workers(options, folder, stack, absent))
        for _ in range(options.repeats):
            decoding.append(workers["tensorflow"].request("decode")["seconds"])
            num_windows = set()
            for name, worker in workers.items():
                row = measured.setdefault(name, collections.defaultdict(list))
                if name in RUNTIMES or name == "pytorch":
                    answer = worker.request("embed")
                    num_windows.add(answer["num_windows"])
                    row["embed_seconds"].append(answer["seconds"])
                    row["cpu_seconds"].append(answer.get("cpu_seconds", math.nan))
                if name in RUNTIMES:
                    row["start_seconds"].append(_start_seconds(name, folder))
                one = worker.request("windows", num_clips=1, repetitions=options.latency_repeats)["seconds"]
                many = worker.request("windows", num_clips=options.batch_size, repetitions=1)["seconds"]
                row["latency_ms"].append(1000 * statistics.median(one))
                row["windows_per_second"].append(options.batch_size / many[0])
            if len(num_windows) > 1:
                raise ClmrError(
                    "The encoders embedded different numbers of windows, so their times cannot be compared."
                )
        versions = {name: worker.about["version"] for name, worker in workers.items()}
    medians = {
        name: {figure: statistics.median(values) for figure, values in row.items()} for name, row in measured.items()
    }
    pytorch = medians.get("pytorch", {})
    return {
        "width": options.width,
        "num_cpus": num_usable_cores(),
        "batch_size": options.batch_size,
        "num_files": options.num_files,
        "audio_seconds": audio_seconds,
        "decoding_seconds": statistics.median(decoding),
        "pytorch_seconds": pytorch.get("embed_seconds"),
        "runtimes": {name: _row(row, pytorch, audio_seconds) for name, row in medians.items()},
        "absent": absent,
        "versions": versions,
    }


def _row(row: dict[str, float], pytorch: dict[str, float], audio_seconds: float) -> dict[str, float | None]:
    """The figures of a runtime; `real_time` and what follows from it are null if it embedded no files."""

    def ratio(numerator: float | None, denominator: float | None) -> float | None:
        return None if None in (numerator, denominator) else numerator / denominator

    has_decoding = "start_seconds" in row
    return {
        "real_time": ratio(audio_seconds, row.get("embed_seconds")) if has_decoding else None,
        "real_time_per_core": ratio(audio_seconds, row.get("cpu_seconds")) if has_decoding else None,
        "start_seconds": row.get("start_seconds"),
        "latency_ms": row["latency_ms"],
        "windows_per_second": row["windows_per_second"],
        "ratio_to_pytorch": ratio(row["windows_per_second"], pytorch.get("windows_per_second")),
        "folder_ratio_to_pytorch": ratio(pytorch.get("embed_seconds"), row.get("embed_seconds")),
    }


def _start_seconds(runtime: str, folder: Path) -> float:
    song = min((folder / "music").iterdir())
    command = [sys.executable, "-m", "clmr_tf.tag", str(song), "--model", str(folder / "model"), "--runtime", runtime]
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def write_music(folder: Path, num_files: int) -> float:
    """Writes MP3 and Ogg Vorbis files alternately to `music/`, and `decoded/` as .npy; returns the seconds of audio."""
    music, decoded = folder / "music", folder / "decoded"
    music.mkdir()
    decoded.mkdir()
    num_samples = 0
    for number, source in enumerate(sorted(DEMO_MUSIC.rglob("*.ogg"))[:num_files]):
        suffix = ("mp3", "ogg")[number % 2]
        file = music / f"{number:03d}.{suffix}"
        if suffix == "ogg":
            file.write_bytes(source.read_bytes())
        else:
            soundfile.write(file, *soundfile.read(source))
        samples = load_audio(file, SAMPLE_RATE_HZ)
        np.save(decoded / f"{number:03d}.npy", samples)
        num_samples += len(samples)
    return num_samples / SAMPLE_RATE_HZ


def export_everything(
    folder: Path, width: float, encoder: str = "sample_cnn", kinds: Sequence[str] = tuple(FORMATS)
) -> dict[str, str]:
    """Exports an encoder with a head, also to the files `kinds` for other runtimes; returns why some are absent."""
    from clmr_tf.export.runtime_formats import version_of
    from clmr_tf.export.runtimes import add_runtime_files
    from clmr_tf.export.writing import write_model_folder
    from clmr_tf.models.encoders import build_encoder

    metadata = {
        "name": "untrained",
        "licence": "unspecified",
        "tag_names": [str(number) for number in range(NUM_TAGS)],
        "single_label": False,
        "scores": {},
        "training": {"step": 0},
    }
    zeros, ones = np.zeros(EMBEDDING_DIM, np.float32), np.ones(EMBEDDING_DIM, np.float32)
    head = Head(zeros, ones, (np.zeros((EMBEDDING_DIM, NUM_TAGS), np.float32), np.zeros(NUM_TAGS, np.float32)))
    write_model_folder(build_encoder(encoder, width=width, seed=0), folder, metadata, head)
    absent = {
        kind: f"{lacking[0]} is not installed"
        for kind in kinds
        if (
            lacking := [name for name in (FORMATS[kind].runtime, *FORMATS[kind].converters) if version_of(name) is None]
        )
    }
    add_runtime_files(folder, [kind for kind in kinds if kind not in absent])
    return absent


def _workers(
    options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack, absent: dict[str, str]
) -> Iterator[tuple[str, Worker]]:
    """Starts the available workers; adds the reason for each missing one to `absent`."""

    def started(python: Path | str, module: str, *arguments: object) -> Worker:
        every = (*arguments, "--num-threads", num_usable_cores())
        return stack.enter_context(contextlib.closing(Worker(python, module, every)))

    # The files fp32, int8 and onnx are what runtimes of the package run.
    for runtime in (*RUNTIMES, SAVED_MODEL, "fp16"):
        if RUNTIMES.get(runtime, runtime) not in absent:
            of_model = ("--runtime", runtime, "--model", folder / "model", "--music", folder / "music")
            of_model += ("--batch-size", options.batch_size)
            yield runtime, started(sys.executable, "benchmarks.runtime_embedding", *of_model)
    python = options.pytorch_python
    if options.pytorch:
        python = python_with_pytorch(folder / "pytorch", absent)
    if python is None:
        absent.setdefault("pytorch", NOT_REQUESTED)
        return
    size = ("--width", options.width, "--batch-size", options.batch_size)
    try:
        worker = started(python, "benchmarks.pytorch_embedding", *size, "--audio", folder / "decoded")
    except WorkerFailedError as error:
        absent["pytorch"] = str(error)
        return
    yield "pytorch", worker


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embed", description=__doc__)
    parser.add_argument("--width", type=float, default=1.0, help="width of the encoder (default: 1.0)")
    parser.add_argument("--num-files", type=int, default=24, help="recordings of the demo corpus (default: 24)")
    parser.add_argument("--batch-size", type=int, default=32, help="windows per batch (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of all measurements (default: 5)")
    parser.add_argument("--latency-repeats", type=int, default=20, help="single windows per round (default: 20)")
    pytorch = parser.add_mutually_exclusive_group()
    pytorch.add_argument("--pytorch", action="store_true", help="install PyTorch for this run and time it (large)")
    pytorch.add_argument(
        "--pytorch-python", type=Path, help="time PyTorch with this Python, which needs PyTorch and NumPy"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    counts = (options.num_files, options.batch_size, options.repeats, options.latency_repeats)
    if min(counts) < 1 or not 0 < options.width <= 8:
        parser.error("every number must be at least 1, and --width above 0 and at most 8")
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(options, Path(folder))
    except WorkerFailedError as error:
        raise ClmrError(f"A part of the benchmark failed: {error}.") from error
    stdout.out(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
