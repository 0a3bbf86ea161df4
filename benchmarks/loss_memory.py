"""python -m benchmarks.loss_memory: the memory of NT-Xent and its gradient for a large batch, as a JSON object.

It runs in its own process, because reused memory would not raise the peak.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from benchmarks.peak_memory import peak_memory_mb
from clmr_tf.console import stdout
from clmr_tf.models.nt_xent import nt_xent
from clmr_tf.models.projector import PROJECTION_DIM

TEMPERATURE = 0.5


@tf.function(reduce_retracing=True)
def loss_and_gradients(z_i: tf.Tensor, z_j: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the loss of pairs of projections [pairs, dimensions] and its gradients."""
    with tf.GradientTape() as tape:
        tape.watch([z_i, z_j])
        loss = nt_xent(z_i, z_j, TEMPERATURE)
    return loss, tape.gradient(loss, [z_i, z_j])


def measure(num_pairs: int) -> dict[str, int]:
    """Returns the peak memory in megabytes (2^20 bytes) above what the process held before."""

    def run(pairs: int) -> None:
        z_i, z_j = (tf.random.stateless_normal([pairs, PROJECTION_DIM], [1, number]) for number in range(2))
        loss, gradients = loss_and_gradients(z_i, z_j)
        # Reading a value waits for the computation.
        _ = loss.numpy(), [gradient.numpy() for gradient in gradients]

    # Two small batch sizes trace the graph for any size.
    run(8)
    run(16)
    # Resets the peak to the memory in use now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = peak_memory_mb()
    # The order of independent operations varies, and with it the peak, so this is repeated.
    for _ in range(5):
        run(num_pairs)
    return {"num_views": 2 * num_pairs, "loss_peak_megabytes": peak_memory_mb() - before}


def main() -> None:
    """Prints the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss_memory", description=__doc__)
    parser.add_argument("--num-pairs", type=int, default=2048, help="pairs per batch (default: 2048)")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("the peak memory of a process can be reset only on Linux; run this benchmark there")
    if options.num_pairs < 2:
        parser.error("--num-pairs must be at least 2")
    stdout.out(json.dumps(measure(options.num_pairs), indent=2))


if __name__ == "__main__":
    main()
