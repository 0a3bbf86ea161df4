"""The length of a run in steps or epochs."""

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.train.build import plan_of


@pytest.mark.parametrize(("lengths", "steps"), [({"steps": 7}, 7), ({"epochs": 3, "steps": 7}, 6), ({"epochs": 3}, 6)])
def test_epochs_override_steps(lengths, steps):
    # Nine songs make two batches of four.
    plan = plan_of(TrainConfig(batch_size=4, **lengths), num_examples=9)
    assert plan.num_steps == plan.decay_steps == steps
