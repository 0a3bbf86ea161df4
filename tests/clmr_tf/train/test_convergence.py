"""What validations do to the learning rate and to the end of a run."""

import keras
import pytest
import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.train.callbacks import Convergence

pytestmark = pytest.mark.usefixtures("tiny_network")

STRATEGY = tf.distribute.get_strategy()


def config_of(**settings) -> TrainConfig:
    return TrainConfig(objective="supervised", learning_rate=0.1, **settings).resolved()


def rows_of(*losses: float | None) -> list[dict]:
    return [{"step": number, "validation_loss": loss} for number, loss in enumerate(losses)]


def learning_rate_after(convergence: Convergence) -> float:
    learning_rate = keras.Variable(0.5, dtype="float64")
    convergence.apply(STRATEGY, learning_rate)
    return float(learning_rate.numpy())


def test_the_learning_rate_is_a_fifth_after_six_validations_without_a_lower_loss():
    convergence = Convergence(config_of())
    rates = []
    for row in rows_of(1.0, *[1.0] * 6, *[1.0] * 6, 0.5, 0.6):
        convergence.observe(row)
        rates.append(learning_rate_after(convergence))
    assert rates == pytest.approx([0.1] * 6 + [0.02] * 6 + [0.004] * 3)


def test_the_run_ends_after_twenty_validations_without_a_lower_loss():
    convergence = Convergence(config_of())
    ended = []
    # What differs by less than a ten-thousandth is a plateau and yet a lower loss.
    for row in rows_of(3.0, *[4.0] * 15, 2.99999, *[3.0] * 19, None):
        assert not convergence.has_ended
        convergence.observe(row)
        ended.append(convergence.has_ended)
    assert ended == [False] * 36 + [True]


def test_rows_of_earlier_starts_count_and_rows_without_a_validation_do_not():
    losses = [1.0, 1.1, 1.2, 0.9, *[1.0] * 8]
    whole = Convergence(config_of(plateau_patience=2, early_stopping=9))
    for row in rows_of(*losses):
        whole.observe(row)
    rows = [row for one in rows_of(*losses) for row in (one, {"step": one["step"], "loss": 0.1})]
    resumed = Convergence(config_of(plateau_patience=2, early_stopping=9), rows)
    assert learning_rate_after(resumed) == learning_rate_after(whole) == pytest.approx(0.1 * 0.2**2)
    assert not resumed.has_ended
    resumed.observe({"step": 99, "validation_loss": 5.0})
    assert resumed.has_ended


def test_a_run_that_is_told_neither_is_left_alone():
    convergence = Convergence(config_of(schedule="constant", early_stopping=0), rows_of(*[1.0] * 50))
    assert learning_rate_after(convergence) == 0.5 and not convergence.has_ended
    convergence = Convergence(config_of(schedule="constant", early_stopping=3), rows_of(*[1.0] * 50))
    assert learning_rate_after(convergence) == 0.5 and convergence.has_ended
