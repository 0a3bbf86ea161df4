"""When a value no longer gets better: PyTorch's rule for lowering a learning rate."""

import math

# What is better by less than this share is no improvement.
_THRESHOLD = 1e-4


class Plateau:
    """`torch.optim.lr_scheduler.ReduceLROnPlateau` with its relative threshold and no cooldown; greater is better.

    Args:
        patience: Values in a row without an improvement that are borne.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best, self._num_bad = -math.inf, 0

    def reached_by(self, value: float) -> bool:
        """Takes the next value, and says whether it is one too many without an improvement; counting begins anew."""
        self._num_bad += 1
        # The first value in any case; the best before is no finite number then.
        if value > self._best + _THRESHOLD * abs(self._best) or not math.isfinite(self._best):
            self._best, self._num_bad = value, 0
        if self._num_bad <= self._patience:
            return False
        self._num_bad = 0
        return True
