"""The training step: views, encoder, projector, NT-Xent, gradient, all-reduce, update."""

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence

import keras
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.augment.randomness import fold_in, uniform_rows
from clmr_tf.models.nt_xent import nt_xent_with_accuracy
from clmr_tf.models.replicas import mean_over_replicas


class TrainingModel(keras.Model, abc.ABC):
    """An encoder, the networks that an objective adds to it, and the step that trains them.

    A batch is `{"clips": float32 [batch, crops, samples], "seeds": int32 [batch, crops, 2], ...}`. Views are made
    inside the step, on the device that trains. With several replicas, each gets its part of the batch.

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        augmentation: Makes a view of a crop and its seed.
        jit_views: Compile the augmentation with XLA.
        num_micro_batches: Parts of a batch that are processed one after the other, each with its own negatives and
            batch statistics; their gradients are averaged.
    """

    def __init__(
        self,
        encoder: keras.Model,
        augmentation: AugmentationChain,
        *,
        jit_views: bool = False,
        num_micro_batches: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = encoder
        self.augmentation = augmentation
        self.num_micro_batches = num_micro_batches
        self.weight_update: WeightUpdate | None = None
        self._augment = tf.function(augmentation, jit_compile=True, autograph=False) if jit_views else augmentation

    @property
    @abc.abstractmethod
    def parts(self) -> dict[str, keras.Model]:
        """The networks, by the names that checkpoints use."""

    @abc.abstractmethod
    def loss_and_metrics(
        self, views: tf.Tensor, batch: Mapping[str, tf.Tensor], training: bool
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of this replica's views, and metrics by name, "loss" among them.

        Args:
            views: From `make_views`.
            batch: The batch that the views were made from.
            training: False uses the running batch statistics and no dropout.

        Returns:
            Scalars; a metric called ..._std is given as `direction_moments`, float32 [3, dimensions], because moments
            can be averaged over micro-batches and replicas, and a standard deviation cannot.
        """

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of the optimizer on this replica's part of a batch.

        Returns:
            Metrics of the whole batch and of the update, float32 scalars, the same on every replica.
        """
        results: list[tuple[list[tf.Tensor], dict[str, tf.Tensor]]] = []
        for rows in self._micro_batches(batch):
            # Each part waits for the previous one; otherwise all would be in memory at once.
            with tf.control_dependencies(tf.nest.flatten(results[-1:])):
                part = {name: tf.identity(tensor) for name, tensor in rows.items()}
            views = self.make_views(part["clips"], part["seeds"])
            with tf.GradientTape() as tape:
                loss, metrics = self.loss_and_metrics(views, part, training=True)
                scaled_loss = self.weight_update.scale_loss(loss)
            results.append((tape.gradient(scaled_loss, self.trainable_variables), metrics))
        gradients, metrics = tf.nest.map_structure(lambda *values: tf.add_n(values) / len(values), *results)
        metrics = self.weight_update(gradients, metrics)
        return {name: direction_std(value) if name.endswith("_std") else value for name, value in metrics.items()}

    def make_views(self, clips: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Augments every clip: [batch, crops, samples] and seeds [batch, crops, 2] -> [crops * batch, samples].

        The views of a pair are adjacent: rows 2k and 2k + 1 are the two views of pair k.
        """
        # A compiled chain cannot report errors, and neither can a fully compiled step.
        clips = tf.debugging.check_numerics(clips, "A clip to be augmented contains NaN or infinity")
        augmented, num_crops = None, clips.shape[1]
        if self.augmentation.config.asymmetric:
            # The ablation of the paper: the second view of every pair is the unchanged crop.
            augmented = tf.equal(tf.range(num_crops * tf.shape(clips)[0]) % num_crops, 0)
        return self._augment(tf.reshape(clips, [-1, clips.shape[-1]]), tf.reshape(seeds, [-1, 2]), augmented)

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Creates all weights, so that a checkpoint can be restored before the first step."""
        self.encoder.build()
        self.built = True

    def compile(self, weight_update: "WeightUpdate") -> None:
        """Sets the update, whose weights must be the `trainable_variables` in the same order."""
        # Without Keras' own loss scale, which fails on several replicas.
        super().compile(optimizer=weight_update.optimizer, jit_compile=False, auto_scale_loss=False)
        self.weight_update = weight_update

    def _micro_batches(self, batch: Mapping[str, tf.Tensor]) -> list[dict[str, tf.Tensor]]:
        if self.num_micro_batches == 1:
            return [dict(batch)]
        split = {name: tf.split(tensor, self.num_micro_batches) for name, tensor in batch.items()}
        return [{name: parts[index] for name, parts in split.items()} for index in range(self.num_micro_batches)]


class ContrastiveModel(TrainingModel):
    """An encoder and a projector, trained to find the other view of a recording among all views of a batch.

    A batch is `{"clips": float32 [batch, 2, samples], "seeds": int32 [batch, 2, 2], ...}`, see `data.crops`. Both views
    of all pairs go through the encoder in one pass, so batch normalisation sees the statistics of all 2N views. With
    `two_passes`, the N first and the N second views have separate statistics, as in the original. If both views are
    made in the same way, as in all presets but the asymmetric ones, the only difference is that statistics of N views
    are noisier than those of 2N.

    With several replicas, each compares its own views with the views of all replicas.

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        projector: [batch, embedding] -> [batch, projection], float32.
        augmentation: Makes a view of a crop and its seed.
        temperature: Temperature of NT-Xent.
        two_passes: Encode first and second views separately.
        **kwargs: Passed to `TrainingModel`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projector: keras.Model,
        augmentation: AugmentationChain,
        temperature: float = 0.5,
        two_passes: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(encoder, augmentation, **kwargs)
        self.projector = projector
        self.temperature = temperature
        self.two_passes = two_passes

    @property
    def parts(self) -> dict[str, keras.Model]:
        """Encoder and projector."""
        return {"encoder": self.encoder, "projector": self.projector}

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Projections of views: [batch, samples] -> [batch, projection]."""
        return self.projector(self.encode(inputs, training), training=training)

    def loss_and_metrics(
        self, views: tf.Tensor, batch: Mapping[str, tf.Tensor], training: bool
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """NT-Xent of a batch of pairs, contrastive accuracy, and three metrics that show a collapse."""
        h = self.encode(views, training)
        z = self.projector(h, training=training)
        loss, accuracy = nt_xent_with_accuracy(z[0::2], z[1::2], self.temperature)
        return loss, {
            "loss": loss,
            "contrastive_accuracy": accuracy,
            "embedding_mean": tf.reduce_mean(tf.cast(h, tf.float32)),
            "embedding_std": direction_moments(h),
            "projection_std": direction_moments(z),
        }

    def encode(self, views: tf.Tensor, training: bool) -> tf.Tensor:
        """Embeddings of views, in one pass or two: [2 batch, samples] -> [2 batch, embedding]."""
        if not self.two_passes:
            return self.encoder(views, training=training)
        h = [self.encoder(views[number::2], training=training) for number in (0, 1)]
        return tf.reshape(tf.stack(h, axis=1), [-1, h[0].shape[-1]])


class SupervisedModel(TrainingModel):
    """An encoder and a classifier, trained on labelled crops: the supervised SampleCNN that the paper compares with.

    A batch is `{"clips": float32 [batch, 1, samples], "seeds": int32 [batch, 1, 2], "labels": float32 [batch, tags]}`,
    see `data.crops`. The loss is the mean over crops and tags of the binary cross-entropy, or where every clip has one
    label, the mean over crops of the cross-entropy, as in the released code.

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        classifier: [batch, embedding] -> logits [batch, tags], float32.
        augmentation: Makes a view of a crop and its seed; the released code trains on the crops alone.
        single_label: Every clip has exactly one label.
        dropout: Expected fraction of each embedding that is set to zero in training; the rest is scaled up to match. It
            depends on the seed of the crop alone.
        **kwargs: Passed to `TrainingModel`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        classifier: keras.Model,
        augmentation: AugmentationChain,
        *,
        single_label: bool,
        dropout: float = 0.5,
        **kwargs,
    ) -> None:
        super().__init__(encoder, augmentation, **kwargs)
        self.classifier = classifier
        self.single_label = single_label
        self.dropout = dropout

    @property
    def parts(self) -> dict[str, keras.Model]:
        """Encoder and classifier."""
        return {"encoder": self.encoder, "classifier": self.classifier}

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of crops: [batch, samples] -> [batch, tags]."""
        return self.classifier(self.encoder(inputs, training=training), training=training)

    def loss_and_metrics(
        self, views: tf.Tensor, batch: Mapping[str, tf.Tensor], training: bool
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Cross-entropy, accuracy of single labels, and two metrics that show a collapse."""
        h = self.encoder(views, training=training)
        kept = drop(h, batch["seeds"][:, 0], self.dropout) if training and self.dropout else h
        logits = self.classifier(kept, training=training)
        labels = tf.cast(batch["labels"], logits.dtype)
        loss = classification_loss(logits, labels, self.single_label)
        metrics = {"loss": loss}
        if self.single_label:
            is_right = tf.equal(tf.argmax(logits, axis=1), tf.argmax(labels, axis=1))
            metrics["accuracy"] = tf.reduce_mean(tf.cast(is_right, tf.float32))
        metrics["embedding_mean"] = tf.reduce_mean(tf.cast(h, tf.float32))
        metrics["embedding_std"] = direction_moments(h)
        return loss, metrics


def classification_loss(logits: tf.Tensor, labels: tf.Tensor, single_label: bool) -> tf.Tensor:
    """Mean cross-entropy of logits against multi-hot labels, both float [batch, tags]; a scalar of their type.

    Args:
        logits: Before sigmoid or softmax.
        labels: 1 where a crop has the tag.
        single_label: Softmax over the tags; otherwise a sigmoid of each, and the mean over the tags as well.
    """
    if single_label:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def drop(vectors: tf.Tensor, seeds: tf.Tensor, fraction: float) -> tf.Tensor:
    """Dropout that depends only on the seed of each row, not on its batch or replica.

    Args:
        vectors: [batch, dimensions].
        seeds: int32 [batch, 2].
        fraction: Expected fraction that becomes 0, in [0, 1); the rest is divided by 1 - fraction.
    """
    uniforms = uniform_rows(fold_in(seeds, "dropout"), vectors.shape[1:])
    return tf.where(uniforms >= fraction, vectors / tf.cast(1 - fraction, vectors.dtype), tf.zeros_like(vectors))


def direction_moments(vectors: tf.Tensor) -> tf.Tensor:
    """Moments for `direction_std`; the mean of the moments of equal parts of a batch is that of the whole batch.

    So they can be averaged together with the gradients, without a separate all-reduce.

    Args:
        vectors: [batch, dimensions] of this replica, any float type.

    Returns:
        float32 [3, dimensions], without a gradient: of each coordinate of the normalised vectors the mean, the
        variance, and the square of the mean.
    """
    directions = tf.math.l2_normalize(tf.cast(tf.stop_gradient(vectors), tf.float32), axis=-1)
    mean, variance = tf.nn.moments(directions, [0])
    return tf.stack([mean, variance, tf.square(mean)])


def direction_std(moments: tf.Tensor) -> tf.Tensor:
    """Standard deviation of normalised vectors: about 1 for random directions, 0 when all are the same.

    The standard deviation over the batch of each coordinate, averaged and multiplied by the square root of the number
    of coordinates (Chen and He 2021, SimSiam, figure 2). It shows a collapse of the representation.

    Args:
        moments: From `direction_moments`, or their mean over parts of a batch; float [3, dimensions].

    Returns:
        float32 scalar.
    """
    mean, variance, squared_mean = tf.unstack(tf.cast(moments, tf.float32))
    # The variance of the means of the parts; zero for one part, where rounding may make it negative.
    between = tf.maximum(squared_mean - tf.square(mean), 0.0)
    return tf.reduce_mean(tf.sqrt(variance + between)) * tf.sqrt(float(moments.shape[-1]))


class WeightUpdate:
    """Averages the gradient over the replicas, clips it, and updates the weights if it is finite.

    It calls the optimizer's `update_step` for each weight outside of the replicas, because `apply` of a Keras optimizer
    clips and checks each replica's own gradient and cannot be skipped on all replicas together.

    Create it inside the scope of the strategy, with an optimizer that is built for the weights.

    Args:
        optimizer: Computes the change of a weight; its own clipping, weight decay and averages are not used.
        weights: The weights that the gradients belong to, in this order.
        clip_norm: Largest norm of the gradient of all weights together; 0 disables clipping.
        ema_momentum: Momentum of the running average of the weights; 0 keeps no average.
        skips_nonfinite: Skip and count a step whose gradient is not finite. Otherwise the weights are frozen from that
            step on.
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
        loss_scale: "LossScale | None" = None,
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
        # Counted from the start of the process, since a run never resumes from weights that are not finite.
        self.num_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="num_steps")
        self.first_nonfinite = tf.Variable(0, dtype=tf.int64, trainable=False, name="first_nonfinite")

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """The variables for checkpoints, in addition to the optimizer's own and the averages, by name."""
        return {"num_skipped": self.num_skipped, **(self.loss_scale.variables if self.loss_scale else {})}

    def reset_averages(self) -> None:
        """Sets the running averages to the current weights; call it after weights were loaded from elsewhere."""
        for average, weight in zip(self.averages, self.weights, strict=False):
            average.assign(weight.value)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Swaps in the running averages, if there are any, and restores the exact weights at the end."""
        weights = self.weights if self.averages else []
        before = [tf.identity(weight.value) for weight in weights]
        try:
            for weight, average in zip(weights, self.averages, strict=True):
                weight.value.assign(average)
            yield
        finally:
            for weight, value in zip(weights, before, strict=True):
                weight.value.assign(value)

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss whose gradient the update expects."""
        return loss * self.loss_scale.value if self.loss_scale else loss

    def __call__(self, gradients: Sequence[tf.Tensor], metrics: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Updates the weights; called within each replica.

        Args:
            gradients: Gradients of `scale_loss(loss)` on this replica, one for each weight and of its type.
            metrics: Scalars or moments of this replica; one that is not finite marks the loss as not finite.

        Returns:
            The means of `metrics` over all replicas, with "gradient_norm" before clipping, "learning_rate" of this
            step and "num_skipped", the steps skipped since the run began; with a loss scale also "loss_scale" of this
            step and "num_overflows", the steps for which it was too large. All float32.
        """
        # A single all-reduce, which needs a single type.
        values = [tf.cast(value, gradients[0].dtype) for value in metrics.values()]
        reduced = mean_over_replicas([*gradients, *values])
        gradients, means = reduced[: len(self.weights)], dict(zip(metrics, reduced[len(self.weights) :], strict=True))
        if self.loss_scale:
            gradients = [gradient / self.loss_scale.value for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        has_finite_loss = tf.reduce_all([tf.reduce_all(tf.math.is_finite(mean)) for mean in means.values()])
        is_finite = tf.math.is_finite(norm) & has_finite_loss
        if self.clip_norm:
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
            gradients = [gradient * factor for gradient in gradients]
        # Read before the update increments the iterations.
        learning_rate = tf.identity(tf.convert_to_tensor(self.optimizer.learning_rate))
        loss_scale = {"loss_scale": tf.identity(self.loss_scale.value)} if self.loss_scale else {}
        tf.distribute.get_replica_context().merge_call(self._update, args=(gradients, is_finite, has_finite_loss))
        of_update = {"gradient_norm": norm, "learning_rate": learning_rate, "num_skipped": self.num_skipped}
        if self.loss_scale:
            of_update |= {**loss_scale, "num_overflows": self.loss_scale.num_overflows}
        return {name: tf.cast(value, tf.float32) for name, value in {**means, **of_update}.items()}

    def _update(
        self, strategy: tf.distribute.Strategy, gradients: list, is_finite: tf.Tensor, has_finite_loss: tf.Tensor
    ) -> None:
        is_finite, has_finite_loss = (
            strategy.experimental_local_results(flag)[0] for flag in (is_finite, has_finite_loss)
        )
        self.num_steps.assign_add(1)
        # A loss that is not finite is not caused by the loss scale.
        is_overflow = tf.constant(False)
        if self.loss_scale:
            is_overflow = ~is_finite & has_finite_loss & (self.loss_scale.value > 1.0)
            self.loss_scale.adapt(is_finite, is_overflow)
        if self.skips_nonfinite:
            is_applied = is_finite
            self.num_skipped.assign_add(tf.cast(~is_finite & ~is_overflow, tf.int64))
        else:
            is_first = (self.first_nonfinite == 0) & ~is_finite & ~is_overflow
            self.first_nonfinite.assign(tf.where(is_first, self.num_steps, self.first_nonfinite))
            is_applied = is_finite & (self.first_nonfinite == 0)
        tf.cond(is_applied, lambda: self._apply(strategy, gradients), lambda: None)

    def _apply(self, strategy: tf.distribute.Strategy, gradients: list) -> None:
        # Read before the iterations are incremented; otherwise the schedule would be a step ahead.
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)

        def update(weight: tf.Variable, gradient: tf.Tensor) -> None:
            self.optimizer.update_step(gradient, weight, learning_rate)

        for weight, gradient in zip(self.weights, gradients, strict=True):
            strategy.extended.update(weight.value, update, args=(gradient,), group=False)
        for average, weight in zip(self.averages, self.weights, strict=False):
            strategy.extended.update(average, self._average, args=(weight.value,), group=False)
        self.optimizer.iterations.assign_add(1)

    def _average(self, average: tf.Variable, weight: tf.Tensor) -> None:
        average.assign(self.ema_momentum * average + (1.0 - self.ema_momentum) * weight)


_INITIAL_LOSS_SCALE = 2.0**15
_STEPS_UNTIL_DOUBLED = 2_000


class LossScale:
    """A dynamic loss scale (Micikevicius et al. 2018, section 3.2).

    The loss is multiplied by it and the gradient divided. It halves when a gradient overflows and doubles after 2,000
    steps without an overflow. It checks the summed gradient of all replicas, so they agree. Keras' own loss scale
    checks each replica's gradient before the sum, and then a replica may wait for the others forever.

    Create it inside the scope of the strategy.

    Attributes:
        value: The scale, float32.
        num_overflows: Steps skipped because of it since the run began, int64.
    """

    def __init__(self) -> None:
        self.value = tf.Variable(_INITIAL_LOSS_SCALE, trainable=False, name="loss_scale")
        self.num_overflows = tf.Variable(0, dtype=tf.int64, trainable=False, name="num_overflows")
        self._num_good_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="num_good_steps")

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """The variables for checkpoints, by name."""
        return {
            "loss_scale": self.value,
            "num_good_steps": self._num_good_steps,
            "num_overflows": self.num_overflows,
        }

    def adapt(self, is_finite: tf.Tensor, is_overflow: tf.Tensor) -> None:
        """Adapts the scale after a step; called outside of the replicas.

        Args:
            is_finite: Bool scalar, whether gradient and loss are finite.
            is_overflow: Bool scalar, whether a smaller scale might have kept them finite; such steps are counted.
        """
        self.num_overflows.assign_add(tf.cast(is_overflow, tf.int64))
        num_good_steps = tf.where(is_finite, self._num_good_steps + 1, 0)
        doubles = num_good_steps >= _STEPS_UNTIL_DOUBLED
        factor = tf.where(is_finite, tf.where(doubles, 2.0, 1.0), 0.5)
        self.value.assign(tf.maximum(self.value * factor, 1.0))
        self._num_good_steps.assign(tf.where(doubles, tf.zeros_like(num_good_steps), num_good_steps))
