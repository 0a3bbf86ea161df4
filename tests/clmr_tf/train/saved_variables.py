"""Variables for the checkpoint tests; each holds the number of the step in all its values."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from clmr_tf.train.checkpoints import Checkpoints

NUM_VALUES = 5_000


def make_groups(step: int = 0, num_values: int = NUM_VALUES) -> dict[str, dict[str, tf.Variable]]:
    """Makes several groups of variables, with one counter and one empty group."""
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
    """Returns the step that all values of all variables hold."""
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
    """Lists a folder, including hidden files."""
    return sorted(path.name for path in folder.iterdir())
