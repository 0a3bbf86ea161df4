"""The float16 loss scale: when it changes, and that training gives the same losses as float32."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.data.crops import pair_dataset
from clmr_tf.train.build import build_model
from clmr_tf.train.distribution import build_strategy
from clmr_tf.train.loop import build_execution, distributed
from clmr_tf.train.step import LossScale, WeightUpdate
from tests.synthetic import synthetic_corpus
from tests.tiny_network import CLIP_NUM_SAMPLES

INITIAL = 2.0**15


class Training:
    """One weight on two replicas, whose loss is `slope` times the weight."""

    def __init__(self, *, skips_nonfinite: bool) -> None:
        self.strategy = build_strategy("mirrored", 2)
        with self.strategy.scope():
            self.weight = keras.Variable(1.0)
            optimizer = keras.optimizers.SGD(0.5)
            optimizer.build([self.weight])
            self.scale = LossScale()
            self.update = WeightUpdate(optimizer, [self.weight], skips_nonfinite=skips_nonfinite, loss_scale=self.scale)

    @tf.function
    def step(self, slopes: tf.Tensor) -> dict[str, tf.Tensor]:
        def in_replica():
            slope = slopes[tf.distribute.get_replica_context().replica_id_in_sync_group]
            with tf.GradientTape() as tape:
                loss = slope * self.weight
                scaled = self.update.scale_loss(loss)
            return self.update(tape.gradient(scaled, [self.weight.value]), {"loss": tf.constant(1.0)})

        return self.strategy.run(in_replica)

    def of_both(self, variable) -> list[float]:
        return [float(one) for one in self.strategy.experimental_local_results(variable)]


def test_gradient_is_unscaled():
    training = Training(skips_nonfinite=False)
    training.step(tf.constant([0.5, 1.5]))
    # 1 minus half the mean slope of 1.
    assert training.of_both(training.weight.value) == [0.5, 0.5]
    assert training.of_both(training.scale.value) == [INITIAL, INITIAL]


@pytest.mark.parametrize("skips_nonfinite", [False, True], ids=["stop", "skip"])
@pytest.mark.parametrize("slopes", [[np.inf, 1.0], [1.0, np.nan]])
def test_overflow_on_one_replica_halves_scale_on_all_and_skips_step(skips_nonfinite, slopes):
    training = Training(skips_nonfinite=skips_nonfinite)
    metrics = training.step(tf.constant(slopes))
    assert training.of_both(metrics["loss_scale"]) == [INITIAL, INITIAL]
    assert training.of_both(metrics["num_overflows"]) == [1.0, 1.0]
    assert training.of_both(training.scale.value) == [INITIAL / 2, INITIAL / 2]
    assert training.of_both(training.weight.value) == [1.0, 1.0]
    assert training.update.optimizer.iterations.numpy() == 0
    # An overflow does not stop the run and is not a skipped step.
    assert (training.update.first_nonfinite.numpy(), training.update.num_skipped.numpy()) == (0, 0)
    metrics = training.step(tf.constant([0.5, 1.5]))
    assert training.of_both(training.weight.value) == [0.5, 0.5]
    # The count of overflows is cumulative.
    assert training.of_both(metrics["num_overflows"]) == [1.0, 1.0]


@pytest.mark.parametrize(("skips_nonfinite", "first", "num_skipped"), [(False, 3, 0), (True, 0, 2)])
def test_nonfinite_at_scale_one_counts_as_nonfinite(skips_nonfinite, first, num_skipped):
    training = Training(skips_nonfinite=skips_nonfinite)
    training.scale.value.assign(4.0)
    scales = []
    for _ in range(4):
        training.step(tf.constant([1.0, np.nan]))
        scales.append(training.of_both(training.scale.value)[0])
    assert scales == [2.0, 1.0, 1.0, 1.0]
    assert training.update.first_nonfinite.numpy() == first
    assert training.update.num_skipped.numpy() == num_skipped
    assert training.scale.num_overflows.numpy() == 2
    training.step(tf.constant([1.0, 1.0]))
    assert training.of_both(training.weight.value) == ([0.5, 0.5] if skips_nonfinite else [1.0, 1.0])


def test_2000_finite_steps_in_a_row_double_the_scale():
    scale = LossScale()

    @tf.function
    def steps(count: tf.Tensor, is_finite: tf.Tensor) -> None:
        for _ in tf.range(count):
            scale.adapt(is_finite, ~is_finite)

    for count, is_finite, expected in (
        (1999, True, INITIAL),
        (1, True, 2 * INITIAL),
        (1999, True, 2 * INITIAL),
        (1, False, INITIAL),
        (1999, True, INITIAL),
        (2001, True, 4 * INITIAL),
        (40, False, 1.0),
    ):
        steps(tf.constant(count), tf.constant(is_finite))
        assert scale.value.numpy() == expected, count
    assert scale.num_overflows.numpy() == 1 + 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 10}, num_samples=60_000, tag_names=("a", "b"))


def losses_of(corpus, precision: str, num_replicas: int) -> tuple[list[float], list[float]]:
    """Returns the losses of one batch before and after the first update, and the loss scale after every step."""
    strategy = build_strategy("mirrored", 2) if num_replicas == 2 else build_strategy("single")
    config = TrainConfig(width=0.0625, batch_size=4, augmentation="none", precision=precision).resolved()
    with strategy.scope():
        model = build_model(config)
    execute = build_execution(model, strategy, several_steps=False, jit=False)

    def batches(shard):
        dataset = pair_dataset(corpus, "train", batch_size=4, clip_num_samples=CLIP_NUM_SAMPLES, seed=1, shard=shard)
        return dataset.take(shard.num_local_replicas).repeat()

    iterator = iter(distributed(strategy, batches, 1))
    losses, scales = {}, []
    while len(losses) < 2:
        num_updates = int(model.optimizer.iterations.numpy())
        losses[num_updates] = float(execute(iterator, tf.constant(1))["loss"])
        scale = model.weight_update.loss_scale
        scales.append(float(scale.value.numpy()) if scale else 1.0)
    assert all(np.isfinite(weight.numpy()).all() for weight in model.variables)
    return list(losses.values()), scales


@pytest.mark.usefixtures("tiny_network")
@pytest.mark.soak
def test_float16_losses_equal_float32_on_one_and_two_replicas(corpus):
    exact, _ = losses_of(corpus, "float32", 1)
    assert exact[1] < exact[0] - 0.1
    for num_replicas in (1, 2):
        losses, scales = losses_of(corpus, "mixed_float16", num_replicas)
        # The scale starts too high on purpose and halves until the gradient is finite.
        assert 2 < len(scales) < 12 and scales[0] == INITIAL / 2
        assert all(after in (before, before / 2) for before, after in itertools.pairwise(scales))
        np.testing.assert_allclose(losses, exact, rtol=0.02)
