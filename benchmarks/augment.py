"""python -m benchmarks.augment: the cost of the augmentation chain, next to a training step and the original's effects.

Prints one JSON object. `chain_over_step` compares wall-clock times on all cores: the chain on a batch of views, and a
training step of the full-width SampleCNN on the same batch without augmentation. `chain_over_original_parts` compares
CPU times on one core for the same clips and the same random draws: the whole chain, and only julius' filters and sox's
`pitch` and `reverb`. These are timed if they are installed; `--install-original` installs julius with PyTorch (large),
and sox with apt-get.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.original_augmentations import install_julius, install_sox, julius_cpu_seconds, sox_cpu_seconds
from benchmarks.peak_memory import peak_memory_mb
from clmr_tf.augment import AugmentationChain
from clmr_tf.augment.effects.fourier import fast_fft_length
from clmr_tf.config.augmentation import AUGMENTATION_NAMES, AugmentationConfig, augmentation_preset
from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command, stdout
from clmr_tf.data.crops import pair_dataset
from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.errors import UsageError
from clmr_tf.hardware import num_usable_cores
from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES
from clmr_tf.quiet_start import start_xla_quietly
from clmr_tf.train.build import build_model

SAMPLE_RATE_HZ = 22050
NUM_VIEWS = 96
OTHER_BATCHES = (16, 384)


def timed(run: Callable[[], Any], repetitions: int) -> tuple[float, float]:
    """Returns the median CPU and wall-clock seconds of a call, after a warm-up call."""
    run()
    cpu, wall = [], []
    for _ in range(repetitions):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        run()
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    return float(np.median(cpu)), float(np.median(wall))


def clips_of_the_demo_corpus(num_clips: int, corpora: Path) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns clips of real music, float32 [num_clips, samples], and seeds of their views, int32 [num_clips, 2]."""
    num_samples = CLIP_NUM_SAMPLES[SAMPLE_RATE_HZ]
    corpus = resolve_corpus("demo", corpora=corpora, sample_rate_hz=SAMPLE_RATE_HZ, clip_num_samples=num_samples)
    batches = iter(pair_dataset(corpus, "train", batch_size=16, clip_num_samples=num_samples, seed=0))
    parts = [next(batches) for _ in range(-(-num_clips // 32))]
    clips = tf.concat([tf.reshape(part["clips"], [-1, num_samples]) for part in parts], axis=0)
    seeds = tf.concat([tf.reshape(part["seeds"], [-1, 2]) for part in parts], axis=0)
    return clips[:num_clips], seeds[:num_clips]


def measure_cpu(corpora: Path, repetitions: int) -> dict[str, Any]:
    """Measures CPU milliseconds per view of the chain, for several batch sizes, and of its parts, and the peak memory.

    Call it in a process that is limited to one core: sharing the work between cores costs more CPU time.
    """
    clips, seeds = clips_of_the_demo_corpus(max(NUM_VIEWS, *OTHER_BATCHES), corpora)
    chain = released_chain()
    costs, peak_mb = {}, {"before": peak_memory_mb()}
    for num_views in sorted((NUM_VIEWS, *OTHER_BATCHES)):
        cpu, _ = timed(lambda count=num_views: chain(clips[:count], seeds[:count]), repetitions)
        costs[str(num_views)] = 1000 * cpu / num_views
        peak_mb[str(num_views)] = peak_memory_mb()
    every, parts = tf.ones([NUM_VIEWS], tf.bool), {}
    for name in AUGMENTATION_NAMES:
        part = tf.function(AugmentationChain(augmentation_preset(f"only-{name}"), SAMPLE_RATE_HZ))
        cpu, _ = timed(lambda part=part: part(clips[:NUM_VIEWS], seeds[:NUM_VIEWS], every), repetitions)
        parts[name] = 1000 * cpu / NUM_VIEWS
    pair, _ = timed(lambda: transform_pair(clips[:NUM_VIEWS]), repetitions)
    return {
        "chain_cpu_ms_per_view": costs,
        "peak_memory_mb": peak_mb,
        "parts_on_every_view_cpu_ms": parts,
        "transform_pair_cpu_ms_per_view": 1000 * pair / NUM_VIEWS,
    }


@tf.function
def transform_pair(clips: tf.Tensor) -> tf.Tensor:
    """Transforms to the spectrum and back, as filters and reverb do; sharing this between them would save its cost."""
    fft_length = [fast_fft_length(clips.shape[1])]
    return tf.signal.irfft(tf.signal.rfft(clips, fft_length), fft_length)


def measure_cpu_on_one_core(corpora: Path, repetitions: int) -> dict[str, Any]:
    """Runs `measure_cpu` in a process that is limited to one core."""
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("Limiting a process to one core works only on Linux; run this benchmark there.")
    core = {min(os.sched_getaffinity(0))}
    command = [sys.executable, "-m", "benchmarks.augment", "--cpu-only", "--corpora", str(corpora)]
    done = subprocess.run(
        [*command, "--repetitions", str(repetitions)],
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, core),
    )
    return json.loads(done.stdout)


def released_chain() -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Builds the chain of the released preset as a graph."""
    return tf.function(AugmentationChain(AugmentationConfig(), SAMPLE_RATE_HZ))


def measure_step(clips: tf.Tensor, seeds: tf.Tensor, width: float, repetitions: int) -> float:
    """Returns the wall-clock seconds of a training step on these views without augmentation."""
    model = build_model(TrainConfig(augmentation="none", width=width).resolved())
    batch = {
        "clips": tf.reshape(clips, [len(clips) // 2, 2, -1]),
        "seeds": tf.reshape(seeds, [len(clips) // 2, 2, 2]),
    }
    step = tf.function(model.train_step)
    _, wall = timed(lambda: float(step(batch)["loss"]), repetitions)
    return wall


def measure_original(clips: tf.Tensor, seeds: tf.Tensor, folder: Path) -> dict[str, float | None]:
    """Returns CPU milliseconds per view of the original's effects, for random draws of the released preset."""
    draws = AugmentationChain(AugmentationConfig(), SAMPLE_RATE_HZ).draw(seeds)
    draws = {name: {key: values.numpy() for key, values in part.items()} for name, part in draws.items()}
    waveforms = clips.numpy()

    def settings(name: str, *keys: str) -> list[tuple[float, ...]]:
        part = draws[name]
        return [tuple(float(part[key][row]) for key in keys) for row in np.flatnonzero(part["applied"])]

    seconds = {
        "julius filters": julius_cpu_seconds(waveforms, draws["filter"], SAMPLE_RATE_HZ, folder),
        "sox pitch": sox_cpu_seconds(waveforms, settings("pitch", "cents"), "pitch", SAMPLE_RATE_HZ),
        "sox reverb": sox_cpu_seconds(
            waveforms, settings("reverb", "reverberance", "damping", "room_scale"), "reverb", SAMPLE_RATE_HZ
        ),
    }
    return {name: None if value is None else 1000 * value / len(clips) for name, value in seconds.items()}


def measure(corpora: Path, original: Path, width: float, repetitions: int, step_repetitions: int) -> dict[str, Any]:
    """Runs all measurements and returns them as JSON data."""
    clips, seeds = clips_of_the_demo_corpus(NUM_VIEWS, corpora)
    costs = measure_cpu_on_one_core(corpora, repetitions)
    originals = measure_original(clips, seeds, original)
    absent = [name for name, cost in originals.items() if cost is None]
    chain = released_chain()
    _, chain_seconds = timed(lambda: chain(clips, seeds), repetitions)
    step_seconds = measure_step(clips, seeds, width, step_repetitions)
    chain_cpu_ms = costs["chain_cpu_ms_per_view"][str(NUM_VIEWS)]
    return {
        "num_views": NUM_VIEWS,
        "num_cpus": num_usable_cores(),
        "step_width": width,
        **costs,
        "original_parts_cpu_ms_per_view": originals,
        "absent": absent,
        "chain_seconds": chain_seconds,
        "step_seconds": step_seconds,
        "chain_over_step": chain_seconds / step_seconds,
        "chain_over_original_parts": None if absent else chain_cpu_ms / sum(originals.values()),
    }


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augment", description=__doc__)
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), help="folder of prepared corpora")
    parser.add_argument("--original", type=Path, default=Path("build/original"), help="virtual environment with julius")
    parser.add_argument("--install-original", action="store_true", help="install julius there, and sox with apt-get")
    parser.add_argument("--width", type=float, default=1.0, help="width of the step's encoder (default: 1.0)")
    parser.add_argument("--repetitions", type=int, default=7, help="timed calls of the chain (default: 7)")
    parser.add_argument("--step-repetitions", type=int, default=3, help="timed training steps (default: 3)")
    parser.add_argument(
        "--cpu-only", action="store_true", help="measure only the chain's CPU costs, on the available cores"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if min(options.repetitions, options.step_repetitions) < 1:
        parser.error("--repetitions and --step-repetitions must be at least 1")
    if options.install_original:
        install_julius(options.original)
        install_sox()
    start_xla_quietly()
    if options.cpu_only:
        result = measure_cpu(options.corpora, options.repetitions)
    else:
        result = measure(
            options.corpora, options.original, options.width, options.repetitions, options.step_repetitions
        )
    stdout.out(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
