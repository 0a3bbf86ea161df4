"""The training step: views, encoder, projector, NT-Xent, gradient, all-reduce, update."""

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.augment.randomness import fold_in, uniform_rows
from clmr_tf.models.nt_xent import nt_xent_with_accuracy
from clmr_tf.models.replicas import mean_over_replicas

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


class TrainedModel(keras.Model, abc.ABC):
    """An encoder and what an objective puts on it.

    A batch is `{"clips": float32 [batch, crops, samples], "seeds": int32 [batch, crops, 2], ...}`. The views are made
    inside the step, on the device that trains. On several replicas each has its share of the batch.

    An objective says what it makes of a batch (`prepare`), and what that costs (`score`).

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        augmentation: Makes a view of a clip and its seed.
        jit_views: Compile the augmentation with XLA.
        num_micro_batches: Parts of a batch that are encoded and scored one after the other, each by itself; their
            gradients are averaged.
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
        """What has weights, by the names that checkpoints use."""

    @property
    @abc.abstractmethod
    def watched_of_score(self) -> tuple[str, ...]:
        """The names of what `score` gives beside the loss, in their order."""

    @abc.abstractmethod
    def prepare(self, batch: Mapping[str, tf.Tensor]) -> Any:
        """What is made of a batch before any weight has a part in it."""

    @abc.abstractmethod
    def score(self, prepared: Any, training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss, a scalar, and what `watched_of_score` names, of this replica.

        Scalars, but of what is called ..._spread the moments that `moments_of_directions` gives: their means over
        replicas and micro-batches are taken with those of the gradients, and `spread` is made of them afterwards.
        """

    @property
    def watched(self) -> tuple[str, ...]:
        """The names of what a training step returns; to be asked once it is compiled."""
        return (*self.watched_of_score, *self.weight_update.watched)

    def build(self, input_shape: tuple[int | None, ...] | None = None) -> None:
        """Makes all weights, so that a checkpoint can be restored before the first step."""
        self.encoder.build()
        self.built = True

    def compile(self, weight_update: WeightUpdate) -> None:
        """Says how the weights are changed; the order of its weights is that of `trainable_variables`."""
        # Without Keras' own loss scale, which fails on several replicas.
        super().compile(optimizer=weight_update.optimizer, jit_compile=False, auto_scale_loss=False)
        self.weight_update = weight_update

    def make_views(self, clips: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Augments every clip: [batch, crops, samples] and seeds [batch, crops, 2] -> [crops * batch, samples].

        The views of a pair follow each other: rows 2k and 2k + 1 are the two views of pair k.
        """
        # Here, because a compiled chain cannot report anything.
        clips = tf.debugging.check_numerics(clips, "A clip to be augmented holds NaN or infinity")
        augmented, num_crops = None, clips.shape[1]
        if self.augmentation.config.asymmetric:
            # The ablation of the paper: the second view of every pair is the crop alone.
            augmented = tf.equal(tf.range(num_crops * tf.shape(clips)[0]) % num_crops, 0)
        return self._augment(tf.reshape(clips, [-1, clips.shape[-1]]), tf.reshape(seeds, [-1, 2]), augmented)

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of the optimizer on this replica's share of a batch.

        Returns:
            The float32 scalars that `watched` names, of the whole batch.
        """
        parts = [self._gradients(batch)] if self.num_micro_batches == 1 else self._gradients_of_parts(batch)
        gradients, watched = tf.nest.map_structure(lambda *values: tf.add_n(values) / len(parts), *parts)
        watched = self.weight_update(gradients, watched)
        return {name: spread(value) if name.endswith("_spread") else value for name, value in watched.items()}

    def _gradients(self, batch: Mapping[str, tf.Tensor]) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        prepared = self.prepare(batch)
        with tf.GradientTape() as tape:
            loss, watched = self.score(prepared, training=True)
            loss = self.weight_update.scaled(loss)
        return tape.gradient(loss, self.trainable_variables), watched

    def _gradients_of_parts(self, batch: Mapping[str, tf.Tensor]) -> list[tuple[list[tf.Tensor], dict[str, tf.Tensor]]]:
        parts = {name: tf.split(tensor, self.num_micro_batches) for name, tensor in batch.items()}
        results = []
        for number in range(self.num_micro_batches):
            # Each waits for the one before, or all would be in memory at once.
            with tf.control_dependencies(tf.nest.flatten(results[-1:])):
                part = {name: tf.identity(tensors[number]) for name, tensors in parts.items()}
            results.append(self._gradients(part))
        return results


def moments_of_directions(vectors: tf.Tensor) -> tf.Tensor:
    """What `spread` is made of, such that the mean over equal parts of a batch is that of the batch.

    An exchange between replicas costs most by being one, so these wait for that of the gradients.

    Args:
        vectors: [batch, dimensions] of this replica, any float type.

    Returns:
        float32 [3, dimensions], without a gradient: of each coordinate of the normalised vectors the mean, the
        variance, and the square of the mean.
    """
    directions = tf.math.l2_normalize(tf.cast(tf.stop_gradient(vectors), tf.float32), axis=-1)
    mean, variance = tf.nn.moments(directions, [0])
    return tf.stack([mean, variance, tf.square(mean)])


def spread(moments: tf.Tensor) -> tf.Tensor:
    """How far the directions of vectors are apart: 1 as for random directions, 0 when all are the same.

    The standard deviation over the batch of each coordinate of the normalised vectors, averaged and times the
    root of their number (Chen and He 2021, SimSiam, figure 2). A collapse of the representation shows here.

    Args:
        moments: As `moments_of_directions` gives them, or their mean over parts of a batch; float [3, dimensions].

    Returns:
        float32 scalar.
    """
    mean, variance, squared_mean = tf.unstack(tf.cast(moments, tf.float32))
    # That of the means of the parts; of one part it is zero to the bit, and rounding may take it below.
    between = tf.maximum(squared_mean - tf.square(mean), 0.0)
    return tf.reduce_mean(tf.sqrt(variance + between)) * tf.sqrt(float(moments.shape[-1]))


class ContrastiveModel(TrainedModel):
    """An encoder and a projector, trained to find two views of a recording among those of all others.

    A batch is `{"clips": float32 [batch, 2, samples], "seeds": int32 [batch, 2, 2], ...}` as `crops.py` makes
    it. Both views of all pairs go through the encoder in one pass, so batch normalisation sees the statistics of all
    2N views; with `two_passes` it sees those of N first and N second views, as in the original. Where both views are
    made alike, as by all presets but the asymmetric ones, the two differ by the noise of an estimate from N views
    instead of 2N.

    On several replicas each scores its own views against those of all.

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        projector: [batch, embedding] -> [batch, projection], float32.
        augmentation: Makes a view of a clip and its seed.
        temperature: Of NT-Xent.
        two_passes: Encode the first and the second views apart.
        **kwargs: Of `TrainedModel`.
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

    @property
    def watched_of_score(self) -> tuple[str, ...]:
        """Loss, accuracy, and three measures of a collapse."""
        return ("loss", "contrastive_accuracy", "embedding_mean", "embedding_spread", "projection_spread")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Projections of views: [batch, samples] -> [batch, projection]."""
        return self.projector(self.encoder(inputs, training=training), training=training)

    def prepare(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The views of a batch."""
        return self.make_views(batch["clips"], batch["seeds"])

    def score(self, prepared: tf.Tensor, training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a batch of views (rows as `make_views` returns them) and what to watch beside it."""
        h = self._encode(prepared, training)
        z = self.projector(h, training=training)
        loss, accuracy = nt_xent_with_accuracy(z[0::2], z[1::2], self.temperature)
        return loss, {
            "loss": loss,
            "contrastive_accuracy": accuracy,
            "embedding_mean": tf.reduce_mean(tf.cast(h, tf.float32)),
            "embedding_spread": moments_of_directions(h),
            "projection_spread": moments_of_directions(z),
        }

    def _encode(self, views: tf.Tensor, training: bool) -> tf.Tensor:
        if not self.two_passes:
            return self.encoder(views, training=training)
        h = [self.encoder(views[number::2], training=training) for number in (0, 1)]
        return tf.reshape(tf.stack(h, axis=1), [-1, h[0].shape[-1]])


class SupervisedModel(TrainedModel):
    """An encoder and a classifier, trained on labelled crops: the supervised SampleCNN of the paper's comparison.

    A batch is `{"clips": float32 [batch, 1, samples], "seeds": int32 [batch, 1, 2], "labels": float32 [batch, tags]}`
    as `crops.py` makes it. The loss is the mean over crops and tags of the binary cross-entropy, or where
    every clip has one label the mean over crops of the cross-entropy, as in the released code.

    Args:
        encoder: [batch, samples] -> [batch, embedding].
        classifier: [batch, embedding] -> logits [batch, tags], float32.
        augmentation: Makes a view of a crop and its seed; the released code learns from the crops alone.
        single_label: Every clip has exactly one label.
        dropout: Share of each embedding that is left out at random while training; what is kept is scaled up by as
            much. Which, is a function of the seed of the crop.
        **kwargs: Of `TrainedModel`.
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

    @property
    def watched_of_score(self) -> tuple[str, ...]:
        """Loss, accuracy where there is one, and two measures of a collapse."""
        return ("loss", *(["accuracy"] if self.single_label else []), "embedding_mean", "embedding_spread")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of crops: [batch, samples] -> [batch, tags]."""
        return self.classifier(self.encoder(inputs, training=training), training=training)

    def prepare(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The views of the crops, [batch, samples], with their labels and seeds."""
        views = self.make_views(batch["clips"], batch["seeds"])
        return {"views": views, "labels": batch["labels"], "seeds": batch["seeds"][:, 0]}

    def score(self, prepared: Mapping[str, tf.Tensor], training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of what `prepare` made, and what to watch beside it."""
        h = self.encoder(prepared["views"], training=training)
        kept = drop(h, prepared["seeds"], self.dropout) if training and self.dropout else h
        logits = self.classifier(kept, training=training)
        labels = tf.cast(prepared["labels"], logits.dtype)
        watched = {
            "loss": classification_loss(logits, labels, self.single_label),
            "embedding_mean": tf.reduce_mean(tf.cast(h, tf.float32)),
            "embedding_spread": moments_of_directions(h),
        }
        if self.single_label:
            is_right = tf.equal(tf.argmax(logits, axis=1), tf.argmax(labels, axis=1))
            watched["accuracy"] = tf.reduce_mean(tf.cast(is_right, tf.float32))
        return watched["loss"], {name: watched[name] for name in self.watched_of_score}


def classification_loss(logits: tf.Tensor, labels: tf.Tensor, single_label: bool) -> tf.Tensor:
    """Mean cross-entropy of logits against multi-hot labels, both float [batch, tags]; a scalar of their type.

    Args:
        logits: Before sigmoid or softmax.
        labels: 1 where a crop has the tag.
        single_label: Softmax over the tags; else a sigmoid of each, and the mean over the tags as well.
    """
    if single_label:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def drop(vectors: tf.Tensor, seeds: tf.Tensor, share: float) -> tf.Tensor:
    """Dropout that is a function of the seed of each row, whatever batch or replica it is in.

    Args:
        vectors: [batch, dimensions].
        seeds: int32 [batch, 2].
        share: Expected share that becomes 0, in [0, 1); the others are divided by 1 - share.
    """
    uniforms = uniform_rows(fold_in(seeds, "dropout"), vectors.shape[1:])
    return tf.where(uniforms >= share, vectors / tf.cast(1 - share, vectors.dtype), tf.zeros_like(vectors))
