"""Runs this project's training step; `benchmarks.train_step` starts it and sends it commands."""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.flop import forward_flop
from benchmarks.peak_memory import peak_memory_mb
from benchmarks.worker import reserve_standard_output, seconds_of, serve
from clmr_tf.config.train import TrainConfig
from clmr_tf.data.crops import pair_dataset
from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES
from clmr_tf.models.encoders import DEFAULT_ENCODER
from clmr_tf.quiet_start import start_xla_quietly
from clmr_tf.train.build import build_model, checkpoint_groups
from clmr_tf.train.checkpoints import Checkpoints
from clmr_tf.train.step import ContrastiveModel


class TrainingStep:
    """A model and its batches.

    Args:
        config: The training configuration.
        jit: Whether to compile the whole step with XLA.
    """

    def __init__(self, config: TrainConfig, jit: bool) -> None:
        clip_num_samples = CLIP_NUM_SAMPLES[config.sample_rate_hz]
        corpus = resolve_corpus(
            config.corpus,
            corpora=config.corpora,
            sample_rate_hz=config.sample_rate_hz,
            clip_num_samples=clip_num_samples,
        )
        self.model = build_model(config)
        self._config = config
        self._batches = iter(
            pair_dataset(
                corpus,
                "train",
                batch_size=config.batch_size,
                clip_num_samples=clip_num_samples,
                seed=config.seed,
                sampling_unit=config.sampling_unit,
            )
        )
        self._step = tf.function(self.model.train_step, jit_compile=jit)
        begin = time.perf_counter()
        self._run()
        self.first_step_seconds = time.perf_counter() - begin
        # The first step is slower: it allocates memory and prepares kernels.
        self._run()

    def _run(self) -> tuple[float, float]:
        begin = time.perf_counter()
        batch = next(self._batches)
        waited = time.perf_counter() - begin
        loss = float(self._step(batch)["loss"])
        if not loss > 0:
            raise ArithmeticError(f"The loss of a benchmarked step must be positive. Received: {loss}")
        return time.perf_counter() - begin, waited

    def steps(self, count: int) -> dict[str, Any]:
        """Returns the seconds of each step, including reading its batch, and the seconds of waiting for the batch."""
        seconds, waits = zip(*(self._run() for _ in range(count)), strict=True)
        return {"seconds": seconds, "input_wait_seconds": waits}

    def save(self, repetitions: int) -> dict[str, Any]:
        """Returns the seconds of each save of a checkpoint to a temporary folder."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder) / "checkpoints", checkpoint_groups(self.model), keep=1)
            steps = iter(range(1, repetitions + 1))
            return {"seconds": seconds_of(lambda: checkpoints.save(next(steps)), repetitions)}


def forward_flop_per_view(model: ContrastiveModel) -> int:
    """Counts the multiplications and additions of encoder and projector for one clip."""
    encoder, projector = model.encoder, model.projector
    return forward_flop(encoder, (encoder.clip_num_samples,)) + forward_flop(projector, (EMBEDDING_DIM,))


def matmul_flop_per_second(sizes: Sequence[int], repetitions: int) -> float:
    """Returns the highest rate of a float32 product of square matrices on all cores."""
    product = tf.function(tf.linalg.matmul)
    rates = []
    for size in sizes:
        one, other = (tf.random.stateless_uniform([size, size], [1, number]) for number in range(2))

        def run(one: tf.Tensor = one, other: tf.Tensor = other) -> None:
            # Reading a value waits for the product.
            float(product(one, other)[0, 0])

        run()
        rates.append(2 * size**3 / min(seconds_of(run, repetitions)))
    return max(rates)


def main() -> None:
    """Serves the commands of `benchmarks.train_step`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tensorflow_step", description=__doc__)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--width", type=float, required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--jit", action="store_true")
    options = parser.parse_args()
    reserve_standard_output()
    start_xla_quietly()
    config = TrainConfig(
        corpus=options.corpus,
        corpora=options.corpora,
        batch_size=options.batch_size,
        encoder=options.encoder,
        width=options.width,
        precision=options.precision,
        jit=options.jit,
    ).resolved()
    step = TrainingStep(config, options.jit)
    serve(
        {
            "steps": step.steps,
            "save": step.save,
            "matmul": lambda sizes, repetitions: {"flop_per_second": matmul_flop_per_second(sizes, repetitions)},
            "memory": lambda: {"peak_megabytes": peak_memory_mb()},
        },
        about={
            "version": tf.__version__,
            "forward_flop_per_view": forward_flop_per_view(step.model),
            "first_step_seconds": step.first_step_seconds,
            "checkpoint_every": config.checkpoint_every,
        },
    )


if __name__ == "__main__":
    main()
