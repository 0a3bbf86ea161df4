"""From the replicas' gradients to one change of the weights."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from clmr_tf.loss_scale import LossScale
from clmr_tf.replicas import mean_over_replicas

_WATCHED = ("gradient_norm", "learning_rate", "num_skipped")
_WATCHED_WITH_LOSS_SCALE = ("loss_scale", "num_overflows")


class WeightUpdate:
    """Averages the gradient over the replicas, clips it, and changes the weights if it is finite.

    The optimizer's `update_step` is called for each weight outside of the replicas, because `apply` of a Keras
    optimizer clips and checks each replica's own gradient, and cannot be left out of a step on all replicas at once.

    To be made inside the scope of the strategy, with an optimizer that is built for the weights.

    Args:
        optimizer: Computes the change of a weight; its own clipping, weight decay and averages are not used.
        weights: What the gradients belong to, in this order.
        clip_norm: Largest norm of the gradient of all weights together; 0 clips nothing.
        ema_momentum: Share that a step keeps of the running average of the weights; 0 keeps no average.
        skips_nonfinite: A step whose gradient is not finite is left out and counted; otherwise it is the last one
            that is looked at, and the weights stay as they were before it.
        loss_scale: For float16 networks.
    """

    def __init__(
        self,
        optimizer: keras.Optimizer,
        weights: Sequence[keras.Variable],
        *,
        clip_norm: float = 0.0,
        ema_momentum: float = 0.0,
        skips_nonfinite: bool = False,
        loss_scale: LossScale | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.weights = list(weights)
        self.clip_norm = clip_norm
        self.ema_momentum = ema_momentum
        self.skips_nonfinite = skips_nonfinite
        self.loss_scale = loss_scale
        self.averages = [
            tf.Variable(weight.value, trainable=False, name=f"average_{index}")
            for index, weight in enumerate(self.weights if ema_momentum else ())
        ]
        self.num_skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="num_skipped")
        # Counted from the start of the process, since a state that is not healthy is never resumed from.
        self.num_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="num_steps")
        self.first_nonfinite = tf.Variable(0, dtype=tf.int64, trainable=False, name="first_nonfinite")

    @property
    def watched(self) -> tuple[str, ...]:
        """The names of what an update adds to what is watched of a step."""
        return (*_WATCHED, *(_WATCHED_WITH_LOSS_SCALE if self.loss_scale else ()))

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """What a checkpoint has to hold beside the optimizer's own variables and the averages, by name."""
        return {"num_skipped": self.num_skipped, **(self.loss_scale.variables if self.loss_scale else {})}

    def begin_averages(self) -> None:
        """Makes the running averages the weights of now; to be called when those were set from elsewhere."""
        for average, weight in zip(self.averages, self.weights, strict=False):
            average.assign(weight.value)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The weights are their running averages within, if there are any, and afterwards what they were to the bit."""
        weights = self.weights if self.averages else []
        before = [tf.identity(weight.value) for weight in weights]
        try:
            for weight, average in zip(weights, self.averages, strict=True):
                weight.value.assign(average)
            yield
        finally:
            for weight, value in zip(weights, before, strict=True):
                weight.value.assign(value)

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss to take the gradient of."""
        return loss * self.loss_scale.value if self.loss_scale else loss

    def __call__(self, gradients: Sequence[tf.Tensor], watched: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Changes the weights; to be called within each replica, with its own gradients of `scaled(loss)`.

        Args:
            gradients: One for each weight, of its type.
            watched: Scalars or vectors of this replica; one that is not finite stands for a loss that is not.

        Returns:
            The means of `watched` over all replicas, "gradient_norm" before clipping, "learning_rate" of this step and
            "num_skipped", the steps left out since the run began; with a loss scale "loss_scale" of this step and
            "num_overflows", the steps that it was too large for; float32 all, and all but `watched` scalars.
        """
        # In one exchange, for which all have to be of one type.
        values = [tf.cast(value, gradients[0].dtype) for value in watched.values()]
        reduced = mean_over_replicas([*gradients, *values])
        gradients, means = reduced[: len(self.weights)], reduced[len(self.weights) :]
        if self.loss_scale:
            gradients = [gradient / self.loss_scale.value for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        has_finite_loss = tf.reduce_all([tf.reduce_all(tf.math.is_finite(mean)) for mean in means])
        is_finite = tf.math.is_finite(norm) & has_finite_loss
        if self.clip_norm:
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        # Read before the iterations go on, or a schedule would be a step ahead.
        learning_rate = tf.identity(tf.convert_to_tensor(self.optimizer.learning_rate))
        scale = [tf.identity(self.loss_scale.value)] if self.loss_scale else []
        tf.distribute.get_replica_context().merge_call(self._change, args=(gradients, is_finite, has_finite_loss))
        num_overflows = [self.loss_scale.num_overflows] if self.loss_scale else []
        of_update = [norm, learning_rate, self.num_skipped, *scale, *num_overflows]
        names = (*watched, *self.watched)
        numbers = dict(zip(names, [*means, *of_update], strict=True))
        return {name: tf.cast(number, tf.float32) for name, number in numbers.items()}

    def _change(
        self, strategy: tf.distribute.Strategy, gradients: list, is_finite: tf.Tensor, has_finite_loss: tf.Tensor
    ) -> None:
        is_finite, has_finite_loss = (
            strategy.experimental_local_results(flag)[0] for flag in (is_finite, has_finite_loss)
        )
        self.num_steps.assign_add(1)
        # The loss scale is no cause of a loss that is not finite.
        is_overflow = tf.constant(False)
        if self.loss_scale:
            is_overflow = ~is_finite & has_finite_loss & (self.loss_scale.value > 1.0)
            self.loss_scale.adapt(is_finite, is_overflow)
        if self.skips_nonfinite:
            changes = is_finite
            self.num_skipped.assign_add(tf.cast(~is_finite & ~is_overflow, tf.int64))
        else:
            is_first = (self.first_nonfinite == 0) & ~is_finite & ~is_overflow
            self.first_nonfinite.assign(tf.where(is_first, self.num_steps, self.first_nonfinite))
            changes = is_finite & (self.first_nonfinite == 0)
        tf.cond(changes, lambda: self._apply(strategy, gradients), lambda: None)

    def _apply(self, strategy: tf.distribute.Strategy, gradients: list) -> None:
        # Read before the iterations go on, or the schedule would be a step ahead.
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)

        def change(weight: tf.Variable, gradient: tf.Tensor) -> None:
            self.optimizer.update_step(gradient, weight, learning_rate)

        for weight, gradient in zip(self.weights, gradients, strict=True):
            strategy.extended.update(weight.value, change, args=(gradient,), group=False)
        for average, weight in zip(self.averages, self.weights, strict=False):
            strategy.extended.update(average, self._average, args=(weight.value,), group=False)
        self.optimizer.iterations.assign_add(1)

    def _average(self, average: tf.Variable, weight: tf.Tensor) -> None:
        average.assign(self.ema_momentum * average + (1.0 - self.ema_momentum) * weight)
