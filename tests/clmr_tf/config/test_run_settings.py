"""The length of a run in steps or epochs."""

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.train.build import schedule_of


@pytest.mark.parametrize(("lengths", "steps"), [({"steps": 7}, 7), ({"epochs": 3, "steps": 7}, 6), ({"epochs": 3}, 6)])
def test_epochs_override_steps(lengths, steps):
    # Nine songs are two batches of four.
    schedule = schedule_of(TrainConfig(batch_size=4, **lengths), num_examples=9)
    assert schedule.num_steps == schedule.decay_steps == steps
