"""The learning rate of each step: where it starts, and how it goes on."""

import math

from keras.optimizers.schedules import CosineDecay, LearningRateSchedule

from clmr_tf.errors import UsageError


def default_learning_rate(optimizer: str, batch_size: int, lars_scaling: str = "thesis") -> float:
    """The learning rate of a run that names none.

    Args:
        optimizer: For "lars" it grows with the batch; for all others it is 3e-4, which the released code has for Adam.
        batch_size: Pairs per step.
        lars_scaling: "thesis", 0.075 √batch_size; "released", 0.3 batch_size / 256, as in the released code. Both are
            of SimCLR (Chen et al. 2020, appendix B.1), and meet at 4.8 for 4096 pairs.

    Raises:
        ValueError: If there is no scaling of this name.
    """
    if lars_scaling not in ("thesis", "released"):
        raise ValueError(f"lars_scaling must be 'thesis' or 'released'. Received: {lars_scaling!r}")
    if optimizer != "lars":
        return 3e-4
    return 0.075 * math.sqrt(batch_size) if lars_scaling == "thesis" else 0.3 * batch_size / 256


def learning_rate_schedule(
    schedule: str, peak: float, *, warmup_steps: int, decay_steps: int
) -> float | LearningRateSchedule:
    """The learning rate as a function of the steps that are done, and of nothing else, so that it resumes exactly.

    As in SimCLR, with n the steps done: peak n / warmup_steps until n is warmup_steps, so that the first step of a
    warm-up changes no weight; then, of "cosine", half a cosine that starts there and is zero from n = decay_steps on.
    The released code goes down its cosine once an epoch, without a warm-up; here every step has its own value.

    Args:
        schedule: "constant" or "cosine"; "plateau" is constant here, and lowered by `loop/convergence.py`.
        peak: The highest learning rate.
        warmup_steps: Steps until the peak; 0 starts with it.
        decay_steps: Step at which "cosine" is zero, counted from the start of the run, the warm-up included;
            the others do not look at it.

    Returns:
        `peak` itself where it never changes, otherwise a function from a count of steps, such as
        `optimizer.iterations`, to a float32 scalar.

    Raises:
        UsageError: If the warm-up leaves no steps to the cosine.
        ValueError: If there is no schedule of this name.
    """
    if schedule not in ("constant", "cosine", "plateau"):
        raise ValueError(f"schedule must be 'constant', 'cosine' or 'plateau'. Received: {schedule!r}")
    warm_up = {"warmup_target": peak, "warmup_steps": warmup_steps}
    if schedule != "cosine":
        # To Keras, staying at the peak is a cosine that falls to all of its height.
        return CosineDecay(0.0, 1, alpha=1.0, **warm_up) if warmup_steps else peak
    if warmup_steps >= decay_steps:
        raise UsageError(
            f"The warm-up must end before step {decay_steps}, where the cosine reaches zero (--decay-steps or the end "
            f"of the run); received a warm-up of {warmup_steps} steps."
        )
    return CosineDecay(0.0, decay_steps - warmup_steps, **warm_up)
