"""python -m benchmarks.gpu_check: whether a GPU computes the same numbers as a CPU, and how fast it trains.

Views, embeddings and one training step are computed on the GPU, and in a separate process on the CPU, and compared:
in float32 without TF32, in bfloat16, and on two GPUs if there are two. Prints one JSON object, and one sentence for
each promise; the exit code is 1 if one does not hold. Without a GPU it compares the CPU with itself and says so.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command, stderr, stdout
from clmr_tf.errors import ClmrError
from clmr_tf.hardware import gpu_names
from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES
from clmr_tf.quiet_start import start_xla_quietly
from clmr_tf.train.build import build_model
from clmr_tf.train.distribution import build_strategy, devices_in_words

ROOT = Path(__file__).parents[1]
PRECISIONS = ("float32", "mixed_bfloat16")
Numbers = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Promise:
    """Numbers that must agree on both sides.

    Attributes:
        name: The key in the JSON object.
        sentence: The promise in words.
        numbers: The keys of the compared numbers.
        largest_error: Largest RMS difference, relative to the RMS of the CPU's float32 numbers.
    """

    name: str
    sentence: str
    numbers: tuple[str, ...]
    largest_error: float


# Float32 sums in another order differ in the sixth digit, and ten layers with batch normalization amplify this.
# bfloat16 has three digits.
FLOAT32_PROMISES = (
    Promise("views_float32", "Every view equals the CPU's", ("views",), 1e-3),
    Promise("embeddings_float32", "Every embedding equals the CPU's", ("embeddings",), 1e-3),
    Promise("step_float32", "A training step has the CPU's loss and weight changes", ("loss", "change"), 1e-2),
)
BFLOAT16_PROMISES = (
    Promise("embeddings_bfloat16", "Embeddings in bfloat16 equal the CPU's in float32", ("embeddings",), 0.1),
    Promise("step_bfloat16", "The loss of a step in bfloat16 equals the CPU's in float32", ("loss",), 0.02),
)
TWO_DEVICES_PROMISE = Promise(
    "step_two_devices", "A training step on two devices equals that on one", ("loss", "change"), 1e-2
)


class Check:
    """A model and one batch on the devices of a strategy.

    Args:
        strategy: The strategy that the step runs on.
        config: The training configuration.
    """

    def __init__(self, strategy: tf.distribute.Strategy, config: TrainConfig) -> None:
        self._strategy = strategy
        with strategy.scope():
            self.model = build_model(config)
        self._batch = batch_of_noise(config.batch_size, CLIP_NUM_SAMPLES[config.sample_rate_hz])
        num_own = config.batch_size // strategy.num_replicas_in_sync

        def own_rows(context: Any) -> dict[str, tf.Tensor]:
            first = context.replica_id_in_sync_group * num_own
            return {name: tf.constant(values[first : first + num_own]) for name, values in self._batch.items()}

        self._distributed = strategy.experimental_distribute_values_from_function(own_rows)
        self.step = tf.function(lambda: strategy.run(self.model.train_step, args=(self._distributed,)))
        # The chain is a part of the graph, as in a training step.
        self.make_views = tf.function(self.model.make_views)

    def numbers(self) -> Numbers:
        """Returns views, embeddings, and the loss and weight changes of one SGD step, which changes the model."""
        views = self.make_views(self._batch["clips"], self._batch["seeds"])
        embeddings = tf.function(self.model.encoder)(self._batch["clips"][:, 0])
        before = self._weights()
        loss = self._strategy.experimental_local_results(self.step()["loss"])[0]
        numbers = {"views": views, "embeddings": embeddings, "loss": loss, "change": self._weights() - before}
        return {name: np.asarray(tf.cast(values, tf.float32)) for name, values in numbers.items()}

    def seconds(self, num_steps: int) -> dict[str, float]:
        """Returns the median seconds of a step and of its augmentation chain; call `numbers` first."""

        def run_step() -> None:
            float(self._strategy.experimental_local_results(self.step()["loss"])[0])

        def run_chain() -> None:
            # Reading a value waits for the computation.
            float(tf.reduce_sum(self.make_views(self._batch["clips"], self._batch["seeds"])))

        return {"step": _median_seconds(run_step, num_steps), "chain": _median_seconds(run_chain, num_steps)}

    def _weights(self) -> np.ndarray:
        return np.concatenate([np.ravel(weight.numpy()) for weight in self.model.trainable_variables])


def batch_of_noise(num_pairs: int, num_samples: int) -> Numbers:
    """Makes crops in the format of `pair_dataset`, of noise whose level and color vary."""
    generator = np.random.default_rng(1)
    noise = generator.standard_normal([num_pairs, 2, num_samples])
    slope = generator.uniform(0.5, 1.5, [num_pairs, 1, 1])
    spectrum = np.fft.rfft(noise) / np.arange(1, num_samples // 2 + 2) ** slope
    crops = np.fft.irfft(spectrum, num_samples)
    crops *= generator.uniform(0.1, 0.9, [num_pairs, 2, 1]) / np.max(np.abs(crops), axis=2, keepdims=True)
    seeds = generator.integers(-(2**31), 2**31, [num_pairs, 2, 2])
    return {"clips": crops.astype(np.float32), "seeds": seeds.astype(np.int32)}


def error_of(promise: Promise, found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
    """Returns the largest error of a promise's numbers; each view and each embedding is compared on its own."""

    def relative_error(values: np.ndarray, expected: np.ndarray) -> float:
        rows = [
            np.reshape(array.astype(np.float64), [len(array) if array.ndim > 1 else 1, -1])
            for array in (values, expected)
        ]
        distance, size = np.linalg.norm(rows[0] - rows[1], axis=1), np.linalg.norm(rows[1], axis=1)
        # Non-finite numbers give NaN, for which no comparison holds.
        return float(np.max(distance / np.maximum(size, 1e-9)))

    return max(relative_error(found[name], reference[name]) for name in promise.numbers)


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Computes both sides and compares them."""
    with tempfile.TemporaryDirectory() as folder:
        reference = _numbers_of_cpu(options, Path(folder, "reference.npz"))
    tf.config.experimental.enable_tensor_float_32_execution(False)
    start_xla_quietly()
    gpus = gpu_names()
    if not gpus:
        stderr.print("TensorFlow finds no GPU: this compares the CPU with itself and shows nothing about a GPU.")
    single = tf.distribute.get_strategy()
    found: dict[str, dict[str, Any]] = {}
    seconds = {}

    def compare_numbers(promises: Sequence[Promise], numbers: Numbers, reference: Numbers) -> None:
        for promise in promises:
            error = error_of(promise, numbers, reference)
            found[promise.name] = {
                "sentence": promise.sentence,
                "holds": bool(error <= promise.largest_error),
                "error": error,
                "largest_error": promise.largest_error,
            }

    for precision, promises in zip(PRECISIONS, (FLOAT32_PROMISES, BFLOAT16_PROMISES), strict=True):
        one = Check(single, _config(options, precision))
        numbers = one.numbers()
        compare_numbers(promises, numbers, reference)
        seconds[precision] = one.seconds(options.num_steps)
        if precision == "float32":
            numbers_of_one = numbers
    devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")[:2]
    if len(devices) == 2:
        two = build_strategy("mirrored", 2)
        compare_numbers([TWO_DEVICES_PROMISE], Check(two, _config(options, "float32")).numbers(), numbers_of_one)
    return {
        "ran_on": devices_in_words(single),
        "is_cpu_alone": not gpus,
        "num_devices": len(devices),
        "batch_size": options.batch_size,
        "width": options.width,
        "promises": found,
        "pairs_per_second": {name: options.batch_size / each["step"] for name, each in seconds.items()},
        "chain_fraction_of_step": {name: each["chain"] / each["step"] for name, each in seconds.items()},
        "versions": {"tensorflow": tf.__version__, "numpy": np.__version__},
    }


def _config(options: argparse.Namespace, precision: str) -> TrainConfig:
    # With SGD the weight changes are proportional to the gradient; Adam's first step only shows its sign.
    return TrainConfig(
        corpus="none",
        batch_size=options.batch_size,
        width=options.width,
        precision=precision,
        optimizer="sgd",
        learning_rate=0.1,
        augmentation=options.augmentation,
        steps=options.num_steps + 2,
    ).resolved()


def _numbers_of_cpu(options: argparse.Namespace, path: Path) -> Numbers:
    same = ["--batch-size", options.batch_size, "--width", options.width, "--augmentation", options.augmentation]
    command = [sys.executable, "-m", "benchmarks.gpu_check", *map(str, same), "--write-numbers", str(path)]
    # This hides the GPUs from TensorFlow.
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}, check=False)
    if done.returncode:
        raise ClmrError(f"The numbers of the CPU could not be computed: its process ended with code {done.returncode}.")
    with np.load(path) as file:
        return dict(file)


def _median_seconds(work: Callable[[], None], repetitions: int) -> float:
    seconds = []
    work()
    for _ in range(repetitions):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def main(arguments: Sequence[str]) -> None:
    """Prints the result; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--batch-size", type=int, default=48, help="pairs per step, an even number (default: 48)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the encoder (default: 1.0)")
    parser.add_argument("--augmentation", default="released", help="augmentation preset (default: released)")
    parser.add_argument("--num-steps", type=int, default=5, help="timed steps (default: 5)")
    parser.add_argument("--write-numbers", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.batch_size < 2 or options.batch_size % 2 or options.num_steps < 1 or not 0 < options.width <= 8:
        parser.error("--batch-size must be even and at least 2, --num-steps at least 1, --width above 0 and at most 8")
    if options.write_numbers:
        start_xla_quietly()
        np.savez(options.write_numbers, **Check(tf.distribute.get_strategy(), _config(options, "float32")).numbers())
        return
    result = check(options)
    stdout.out(json.dumps(result, indent=2))
    for promise in result["promises"].values():
        verb = "holds" if promise["holds"] else "DOES NOT HOLD"
        size = f"error {promise['error']:.2g}, at most {promise['largest_error']:g}"
        stderr.print(f"{verb}: {promise['sentence']} ({size}).")
    if result["num_devices"] < 2:
        stderr.print(f"Not checked: {TWO_DEVICES_PROMISE.sentence} (there is only one device).")
    broken = [name for name, promise in result["promises"].items() if not promise["holds"]]
    if broken:
        raise ClmrError(f"{len(broken)} of {len(result['promises'])} promises do not hold: {', '.join(broken)}.")


if __name__ == "__main__":
    sys.exit(run_command(main))
