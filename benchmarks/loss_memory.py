"""python -m benchmarks.loss_memory: the memory that NT-Xent and its gradient need for a large batch, as a JSON object.

A process of its own, since memory that was used before is not counted again.
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
from clmr_tf.models.heads import PROJECTION_DIM
from clmr_tf.models.nt_xent import nt_xent

TEMPERATURE = 0.5


@tf.function(reduce_retracing=True)
def loss_and_gradients(z_i: tf.Tensor, z_j: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """The loss of pairs of projections [pairs, dimensions] and its gradients."""
    with tf.GradientTape() as tape:
        tape.watch([z_i, z_j])
        loss = nt_xent(z_i, z_j, TEMPERATURE)
    return loss, tape.gradient(loss, [z_i, z_j])


def measure(num_pairs: int) -> dict[str, int]:
    """Megabytes (2^20 bytes) at the peak above what the process held before."""

    def run(pairs: int) -> None:
        z_i, z_j = (tf.random.stateless_normal([pairs, PROJECTION_DIM], [1, number]) for number in range(2))
        loss, gradients = loss_and_gradients(z_i, z_j)
        # Reading the numbers waits for them.
        _ = loss.numpy(), [gradient.numpy() for gradient in gradients]

    # Small batches of two sizes, so that the graph for any size is there.
    run(8)
    run(16)
    # The peak begins anew at what is in use now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = peak_memory_mb()
    # Several times, because the order of independent operations, and with it the peak, is not always the same.
    for _ in range(5):
        run(num_pairs)
    return {"num_views": 2 * num_pairs, "loss_peak_megabytes": peak_memory_mb() - before}


def main() -> None:
    """Prints the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss_memory", description=__doc__)
    parser.add_argument("--num-pairs", type=int, default=2048, help="pairs of the batch (default: 2048)")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("the peak of a process can be measured anew on Linux only; this system is another")
    if options.num_pairs < 2:
        parser.error("--num-pairs must be at least 2")
    stdout.out(json.dumps(measure(options.num_pairs), indent=2))


if __name__ == "__main__":
    main()
