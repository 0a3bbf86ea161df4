"""Training on two devices of one machine equals training on one."""

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.data.crops import BatchShard, pair_dataset
from clmr_tf.train.build import build_model
from clmr_tf.train.checkpoints import checkpoint_path
from clmr_tf.train.distribution import build_strategy
from clmr_tf.train.loop import build_execution, distributed
from clmr_tf.train.run import train
from tests.clmr_tf.train.same_training import EVERYTHING, NUM_STEPS, PLAIN, assert_same_training, config_of
from tests.clmr_tf.train.training_runs import metrics, starts, state
from tests.synthetic import synthetic_corpus
from tests.tiny_network import CLIP_NUM_SAMPLES

pytestmark = [pytest.mark.starts_first, pytest.mark.usefixtures("tiny_network")]

STRATEGIES = {"one device": {"strategy": "single"}, "two devices": {"strategy": "mirrored", "num_replicas": 2}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 20}, tag_names=("a", "b"))


# Tracing the whole chain takes minutes; tests/clmr_tf/augment/test_chain_on_replicas.py covers its views.
@pytest.mark.soak
@pytest.mark.parametrize("augmentation", ["only-noise", "released"])
def test_two_devices_equal_one_device_that_resumed_from_two(corpus, tmp_path, augmentation):
    one, two = (tmp_path / name for name in STRATEGIES)
    settings = {**PLAIN, "augmentation": augmentation}
    train(config_of(corpus, one, **settings, **STRATEGIES["two devices"], steps=3))
    train(config_of(corpus, one, **settings, **STRATEGIES["one device"]))
    train(config_of(corpus, two, **settings, **STRATEGIES["two devices"]))
    assert [start["first_step"] for start in starts(one)] == [0, 3]
    assert_same_training(one, two, rtol=1e-5)
    # Every step must change the loss for the comparison to mean something.
    rows = metrics(one)
    assert len({row["loss"] for row in rows}) == NUM_STEPS
    assert abs(rows[-1]["loss"] - rows[0]["loss"]) > 1e-3
    # Variables of the model and of the optimizer, and the number of skipped steps.
    assert len(state(one)) == 22 + 16 + 1


@pytest.mark.soak
@pytest.mark.parametrize(
    ("augmentation", "changes"),
    [
        # Clipping and Adam would hide a gradient that is wrong by a constant factor.
        ("only-noise", {**PLAIN, "clip_norm": 0.0, "micro_batches": 1, "ema_momentum": 0.0}),
        ("only-noise", {**PLAIN, "clip_norm": 0.0}),
        ("only-noise", {}),
        ("released", {}),
    ],
)
def test_two_devices_resume_from_one_with_four_steps_per_execution(corpus, tmp_path, augmentation, changes):
    """The one-device run was killed after four steps."""
    one, two = (tmp_path / name for name in STRATEGIES)
    settings = {**EVERYTHING, **changes, "augmentation": augmentation, "keep_checkpoints": 5}
    train(config_of(corpus, one, **settings, **STRATEGIES["one device"]))
    shutil.copytree(one, two)
    shutil.rmtree(checkpoint_path(two / "checkpoints", 8))
    train(config_of(corpus, two, **settings, **STRATEGIES["two devices"]))
    assert [(start["first_step"], start["num_replicas"]) for start in starts(two)] == [(0, 1), (4, 2)]
    assert_same_training(one, two, rtol=1e-5 if changes else 1e-4)
    rows = metrics(one)
    assert [row["step"] for row in rows] == [4, 8]
    # Every step must change the loss for the comparison to mean something.
    assert abs(rows[-1]["loss"] - rows[0]["loss"]) > 1e-3
    if settings["clip_norm"]:
        assert min(row["gradient_norm"] for row in rows) > settings["clip_norm"]
    if not settings["ema_momentum"]:
        return
    averages = {name: value for name, value in state(one).items() if name.startswith("encoder_average")}
    weights = {name: state(one)[name.replace("_average", "", 1)] for name in averages}
    assert len(averages) == 12 and all((averages[name] != weights[name]).any() for name in averages)


class FirstSteps:
    """Returns the float32 loss and gradient of batches, each as if it were the first step."""

    # So small that the weights do not change and the momentum is the gradient.
    RATE = 1e-12

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        config = TrainConfig(
            width=0.0625, batch_size=8, optimizer="sgd", learning_rate=self.RATE, augmentation="only-noise"
        ).resolved()
        with strategy.scope():
            self.model = build_model(config)
        self.execute = build_execution(self.model, strategy, several_steps=False, jit=False)
        self.momentums = self.model.optimizer.variables[2:]

    def __call__(self, batches: Iterator) -> tuple[float, np.ndarray]:
        for momentum in self.momentums:
            momentum.assign(tf.zeros_like(momentum))
        loss = float(self.execute(batches, tf.constant(1))["loss"])
        return loss, np.concatenate([momentum.numpy().ravel() for momentum in self.momentums]) / -self.RATE


def test_float32_error_of_two_devices_is_that_of_reordering_the_batch(corpus):
    def dataset(shard):
        return pair_dataset(corpus, "train", batch_size=8, clip_num_samples=CLIP_NUM_SAMPLES, seed=1, shard=shard)

    batch = next(iter(dataset(BatchShard())))
    generator = np.random.default_rng(5)
    orders = [np.arange(8), *(generator.permutation(8) for _ in range(4))]
    permuted = {name: tf.stack([tf.gather(value, order) for order in orders]) for name, value in batch.items()}
    batches = iter(tf.data.Dataset.from_tensor_slices(permuted))
    on_one = FirstSteps(build_strategy("single"))
    (loss, gradient), *others = [on_one(batches) for _ in orders]

    two = build_strategy("mirrored", 2)
    loss_of_two, gradient_of_two = FirstSteps(two)(iter(distributed(two, dataset, 1)))

    def distance(other: np.ndarray) -> float:
        return np.linalg.norm(other - gradient) / np.linalg.norm(gradient)

    np.testing.assert_allclose(loss_of_two, loss, rtol=1e-5)
    of_orders = [distance(other) for _, other in others]
    # All are far from an unrelated gradient.
    assert 0 < max(of_orders) < 0.25
    assert distance(gradient_of_two) < 2 * max(of_orders)


@pytest.mark.soak
def test_collapse_metrics_need_no_extra_all_gather(monkeypatch):
    """They are averaged together with the gradients instead."""
    gather, num_gathered = tf.distribute.ReplicaContext.all_gather, [0]

    def counted(context, *arguments, **options):
        num_gathered[0] += 1
        return gather(context, *arguments, **options)

    two = build_strategy("mirrored", 2)
    with two.scope():
        model = build_model(TrainConfig(width=0.0625, batch_size=4, optimizer="sgd", augmentation="none").resolved())
    batch = {
        "clips": tf.random.stateless_normal([2, 2, CLIP_NUM_SAMPLES], [1, 2]),
        "seeds": tf.zeros([2, 2, 2], tf.int32),
    }
    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_gather", counted)
    tf.function(lambda: two.run(model.train_step, args=(batch,)), autograph=False).get_concrete_function()
    # On each replica every batch normalization gathers its moments, and NT-Xent the first and second projections.
    assert num_gathered[0] == 2 * (len(model.encoder.normalizations) + 2)
