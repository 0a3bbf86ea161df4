"""Reducing the learning rate on a plateau, and early stopping."""

import types

import keras
import pytest
import tensorflow as tf

from clmr_tf.train.callbacks import Progress, ReduceLearningRateOnPlateau, StopEarly

STRATEGY = tf.distribute.get_strategy()
NAN = float("nan")


def rows_of(*losses: float | None) -> list[dict]:
    return [{"step": number, "validation_loss": loss} for number, loss in enumerate(losses)]


class Plateau:
    """The callback and the learning rate that it sets."""

    def __init__(self, patience: int, rows: list[dict] = ()) -> None:
        self.optimizer = types.SimpleNamespace(learning_rate=keras.Variable(0.5, dtype="float64"))
        self.callback = ReduceLearningRateOnPlateau(patience, 0.1, self.optimizer, STRATEGY, rows)
        self.callback.start(Progress(0, 100))

    def rate_after(self, loss: float) -> float:
        self.callback(Progress(1, 100, measurements={"validation/loss": loss}))
        return float(self.optimizer.learning_rate.numpy())


def test_rate_is_divided_by_five_after_six_validations_on_a_plateau():
    plateau = Plateau(patience=5)
    rates = [plateau.rate_after(loss) for loss in (1.0, *[1.0] * 6, *[1.0] * 6, 0.5, 0.6)]
    assert rates == pytest.approx([0.1] * 6 + [0.02] * 6 + [0.004] * 3)


def test_improvements_below_the_threshold_do_not_count():
    plateau = Plateau(patience=2)
    # PyTorch's rule: a relative improvement of less than 1e-4 does not count.
    losses = (1.0, 0.9, 0.90001, 0.89999, 0.91, 0.5, 0.6, 0.6, 0.6, 0.6)
    rates = [plateau.rate_after(loss) for loss in losses]
    assert rates == pytest.approx([0.1] * 4 + [0.02] * 4 + [0.004] * 2)


def test_nonfinite_loss_is_not_an_improvement():
    plateau = Plateau(patience=1)
    assert [plateau.rate_after(loss) for loss in (1.0, NAN, float("inf"))] == pytest.approx([0.1, 0.1, 0.02])


def test_run_stops_after_20_validations_without_a_lower_loss():
    stop_early, ended = StopEarly(20, STRATEGY), []
    # Early stopping counts any lower loss, also one below the plateau's threshold.
    for loss in (3.0, *[4.0] * 15, 2.99999, *[3.0] * 19, NAN):
        progress = Progress(1, 100, measurements={"validation/loss": loss})
        stop_early(progress)
        ended.append(progress.has_ended)
    assert ended == [False] * 36 + [True]


def test_logged_validations_count_after_resuming_and_other_rows_do_not():
    losses = [1.0, 1.1, 1.2, 0.9, *[1.0] * 8]
    rows = [row for one in rows_of(*losses) for row in (one, {"step": one["step"], "loss": 0.1})]
    whole, resumed = Plateau(2), Plateau(2, rows)
    for loss in losses:
        rate = whole.rate_after(loss)
    assert rate == resumed.optimizer.learning_rate.numpy() == pytest.approx(0.1 * 0.2**2)

    stop_early, progress = StopEarly(9, STRATEGY, rows), Progress(1, 100)
    stop_early.start(progress)
    assert not progress.has_ended
    progress.metrics, progress.measurements = {"loss": 5.0}, {"probe/score": 0.5}
    stop_early(progress)
    assert not progress.has_ended
    progress.measurements = {"validation/loss": 5.0}
    stop_early(progress)
    assert progress.has_ended
    # A run that has ended stays ended.
    again = Progress(1, 100)
    StopEarly(9, STRATEGY, [*rows, *rows_of(5.0)]).start(again)
    assert again.has_ended
