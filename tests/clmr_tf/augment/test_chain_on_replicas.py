"""The chain gives the same views here and in a process with another number of threads and two replicas."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import clmr_tf
from clmr_tf.augment import AugmentationChain
from clmr_tf.config.augmentation import AUGMENTATION_NAMES, AugmentationConfig


def digest_of_views(num_replicas):
    """Makes eight views, distributed over the replicas, and returns the SHA-256 of their bits.

    The clips are long enough for sums over them to be split between threads.
    """
    generator = np.random.default_rng(5)
    clips = generator.standard_normal([8, 59_049]).astype(np.float32)
    seeds = generator.integers(-(2**31), 2**31, [8, 2]).astype(np.int32)
    released = AugmentationConfig()
    often = (dataclasses.replace(getattr(released, name), probability=0.5) for name in AUGMENTATION_NAMES)
    chain = AugmentationChain(AugmentationConfig(*often))
    strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(num_replicas)])

    def rows_of(values):
        parts = np.split(values, num_replicas)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    views = tf.function(lambda *arguments: strategy.run(chain, arguments))(rows_of(clips), rows_of(seeds))
    views = np.concatenate([part.numpy() for part in strategy.experimental_local_results(views)])
    assert np.sum(np.any(views != clips, axis=1)) >= 6
    return hashlib.sha256(views.tobytes()).hexdigest()


def test_views_depend_neither_on_the_replicas_nor_on_the_threads():
    other_process = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": str(Path(clmr_tf.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert other_process.returncode == 0, other_process.stderr
    assert other_process.stdout.split()[-1] == digest_of_views(num_replicas=1)


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(8)
    tf.config.threading.set_inter_op_parallelism_threads(8)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    sys.stdout.write(digest_of_views(num_replicas=2))
