"""Variables for the tests of checkpoints: what is saved is simply the step, in every one of them."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from clmr_tf.train.checkpoints import Checkpoints

NUM_VALUES = 5_000


def make_groups(step: int = 0, num_values: int = NUM_VALUES) -> dict[str, dict[str, tf.Variable]]:
    """Several variables in several groups, one of them a counter, and one group that is empty."""
    return {
        "encoder": {f"layer_{n}/kernel": tf.Variable(tf.fill([num_values], float(step))) for n in range(3)},
        "optimizer": {"0": tf.Variable(step, dtype=tf.int64), "1": tf.Variable(tf.fill([num_values], float(step)))},
        "update": {},
    }


def set_step(groups: dict, step: int) -> None:
    for group in groups.values():
        for variable in group.values():
            variable.assign(tf.cast(tf.fill(variable.shape, step), variable.dtype))


def step_in(groups: dict) -> int:
    """The step that all variables hold in all their values."""
    values = [np.unique(variable.numpy()) for group in groups.values() for variable in group.values()]
    assert len(values) == 5
    return int(np.unique(np.concatenate(values)).item())


def save_steps(folder: Path, *steps: int, keep: int = 3) -> dict[str, dict[str, tf.Variable]]:
    groups = make_groups()
    checkpoints = Checkpoints(folder, groups, keep)
    checkpoints.restore()
    for step in steps:
        set_step(groups, step)
        checkpoints.save(step)
    return groups


def names_in(folder: Path) -> list[str]:
    """Everything in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())
