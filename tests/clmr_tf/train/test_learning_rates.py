"""Learning rate schedules at steps with known values."""

import math

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.errors import UsageError
from clmr_tf.train.build import default_learning_rate, learning_rate_schedule


def rates(schedule, steps) -> np.ndarray:
    """Evaluates the schedule at int64 steps, as an optimizer counts them."""
    received = [schedule(tf.constant(step, tf.int64)) for step in steps]
    assert {rate.dtype for rate in received} == {tf.float32}
    return np.array(received)


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "sgd"])
def test_default_is_the_released_rate_at_any_batch_size(name):
    assert default_learning_rate(name, 48) == default_learning_rate(name, 4096) == 3e-4


# 4096 and 4.8: Chen et al. 2020, appendix B.1.
@pytest.mark.parametrize(("batch_size", "expected"), [(4096, 4.8), (256, 1.2), (100, 0.75)])
def test_lars_default_scales_with_square_root_of_batch_size(batch_size, expected):
    assert default_learning_rate("lars", batch_size) == pytest.approx(expected)


def test_constant_without_warm_up_is_a_number():
    assert learning_rate_schedule("constant", 3e-4, warmup_steps=0, decay_steps=100) == 3e-4


def test_constant_with_warm_up_rises_linearly_and_stays():
    schedule = learning_rate_schedule("constant", 0.2, warmup_steps=10, decay_steps=100)
    received = rates(schedule, [0, 1, 5, 9, 10, 55, 100, 10**7])
    np.testing.assert_allclose(received, [0.0, 0.02, 0.1, 0.18, 0.2, 0.2, 0.2, 0.2], rtol=1e-6)


def test_cosine_with_warm_up_rises_linearly_and_falls_to_zero():
    schedule = learning_rate_schedule("cosine", 0.2, warmup_steps=10, decay_steps=110)
    # The cosine lasts 100 steps: a quarter, a half and three quarters of it follow the warm-up.
    received = rates(schedule, [0, 1, 5, 9, 10, 35, 60, 85])
    quarter = 0.1 * (1 + math.sqrt(0.5))
    expected = [0.0, 0.02, 0.1, 0.18, 0.2, quarter, 0.1, 0.2 - quarter]
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    assert rates(schedule, [110, 111, 10**7]).tolist() == [0.0, 0.0, 0.0]


def test_cosine_without_warm_up_starts_at_peak():
    schedule = learning_rate_schedule("cosine", 0.2, warmup_steps=0, decay_steps=90)
    received = rates(schedule, [0, 30, 45, 60])
    np.testing.assert_allclose(received, [0.2, 0.15, 0.1, 0.05], rtol=1e-6)
    assert rates(schedule, [90, 91]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_compiled_schedule_equals_eager(name):
    schedule = learning_rate_schedule(name, 0.2, warmup_steps=7, decay_steps=50)
    steps = range(0, 60, 3)
    np.testing.assert_allclose(rates(tf.function(schedule, jit_compile=True), steps), rates(schedule, steps), atol=1e-7)


def test_cosine_may_last_one_step_and_constant_never_ends():
    assert rates(learning_rate_schedule("cosine", 0.2, warmup_steps=9, decay_steps=10), [9, 10])[1] == 0.0
    schedule = learning_rate_schedule("constant", 0.2, warmup_steps=200, decay_steps=100)
    np.testing.assert_allclose(rates(schedule, [100, 200]), [0.1, 0.2], rtol=1e-6)


@pytest.mark.parametrize(("warmup_steps", "decay_steps"), [(100, 100), (200, 100), (0, 0)])
def test_warm_up_that_leaves_no_cosine_steps_is_rejected(warmup_steps, decay_steps):
    sentence = rf"before step {decay_steps}, .*--decay-steps.*received a warm-up of {warmup_steps} steps"
    with pytest.raises(UsageError, match=sentence):
        learning_rate_schedule("cosine", 0.2, warmup_steps=warmup_steps, decay_steps=decay_steps)


def test_unknown_schedule_is_rejected():
    with pytest.raises(ValueError, match=r"'constant', 'cosine' or 'plateau'. Received: 'step'"):
        learning_rate_schedule("step", 0.2, warmup_steps=0, decay_steps=100)
