"""The factor that keeps the gradients of float16 networks above its smallest number."""

import tensorflow as tf

_INITIAL = 2.0**15
_STEPS_UNTIL_DOUBLED = 2_000


class LossScale:
    """A dynamic loss scale (Micikevicius et al. 2018, section 3.2).

    The loss is multiplied by it and the gradient divided. It halves when a gradient overflowed and doubles after
    2,000 steps in which none did. Whether one did is asked of the gradient of all replicas together, so they agree;
    Keras' own scale asks each replica's before they are summed, and then one may wait for the others for ever.

    To be made inside the scope of the strategy.

    Attributes:
        value: The scale, float32.
        num_overflows: Steps left out since the run began because of it, int64.
    """

    def __init__(self) -> None:
        self.value = tf.Variable(_INITIAL, trainable=False, name="loss_scale")
        self.num_overflows = tf.Variable(0, dtype=tf.int64, trainable=False, name="num_overflows")
        self._num_good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="num_good_steps")

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint has to hold, by name."""
        return {
            "loss_scale": self.value,
            "num_good_steps": self._num_good_steps,
            "num_overflows": self.num_overflows,
        }

    def adapt(self, is_finite: tf.Tensor, is_overflow: tf.Tensor) -> None:
        """Takes note of a step; to be called outside of the replicas.

        Args:
            is_finite: Bool scalar, whether its gradient and loss are.
            is_overflow: Bool scalar, whether a smaller scale may have kept them finite; such steps are counted.
        """
        self.num_overflows.assign_add(tf.cast(is_overflow, tf.int64))
        num_good_steps = tf.where(is_finite, self._num_good_steps + 1, 0)
        doubles = num_good_steps >= _STEPS_UNTIL_DOUBLED
        factor = tf.where(is_finite, tf.where(doubles, 2.0, 1.0), 0.5)
        self.value.assign(tf.maximum(self.value * factor, 1.0))
        self._num_good_steps.assign(tf.where(doubles, tf.zeros_like(num_good_steps), num_good_steps))
