"""The rule for lowering a learning rate."""

from clmr_tf.train.callbacks import Plateau


def test_a_plateau_is_reached_by_one_value_more_than_is_borne():
    plateau = Plateau(patience=2)
    losses = (1.0, 0.9, 0.90001, 0.89999, 0.91, 0.5, 0.6, 0.6, 0.6, 0.6)
    # Improvements by less than a ten-thousandth count as none, as ReduceLROnPlateau has it.
    reached = [plateau.reached_by(-loss) for loss in losses]
    assert [number for number, is_reached in enumerate(reached) if is_reached] == [4, 8]


def test_values_that_are_not_finite_are_no_improvement():
    plateau = Plateau(patience=1)
    assert [plateau.reached_by(value) for value in (-1.0, float("nan"), -float("inf"))] == [False, False, True]
