"""Which checkpoint of a run is kept as the best, also after a kill."""

import dataclasses
import json
import types

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import ClmrError
from clmr_tf.train.callbacks import KeepBestCheckpoint, Progress, SaveCheckpoints
from clmr_tf.train.checkpoints import Checkpoints, list_checkpoints
from clmr_tf.train.failures import NonFiniteError
from clmr_tf.train.run import train
from tests.clmr_tf.train.saved_variables import make_groups
from tests.clmr_tf.train.training_runs import metrics
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("tiny_network")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 9, "valid": 3}, num_samples=60_000, tag_names=("a", "b"))


def config_of(corpus, workdir, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "augmentation": "none", "num_audio_examples": 0, "embeddings_every": 0}
    quick |= {"num_validation_pairs": 6}
    return TrainConfig(corpus=str(corpus.folder), workdir=workdir, **quick, log_every=1, validate_every=1, **settings)


def best_of(workdir) -> dict:
    (path,) = list_checkpoints(workdir / "best")
    reason = json.loads((path / "best.json").read_text())
    assert path.name == f"step-{reason['step']:09d}"
    return reason


def test_best_checkpoint_has_lowest_validation_loss(corpus, tmp_path):
    # The learning rate is so high that the loss also rises.
    train(config_of(corpus, tmp_path / "run", steps=5, learning_rate=0.02))
    losses = [row["validation_loss"] for row in metrics(tmp_path / "run")]
    best = int(np.argmin(losses))
    assert len(losses) == 5 and best_of(tmp_path / "run") == {
        "step": best + 1,
        "metric": "validation_loss",
        "measured_on": {"corpus": corpus.manifest.fingerprint, "num_validation_pairs": 6},
        "value": losses[best],
    }


class KilledError(Exception):
    """Stands for a kill, which would leave the same files."""


@pytest.mark.soak
@pytest.mark.parametrize("steps", [1, 3], ids=["last step", "earlier step"])
def test_resume_keeps_best_after_kill_between_save_and_keep(corpus, tmp_path, monkeypatch, steps):
    keep_best, kept = Checkpoints.keep_best, []

    def die(*_arguments):
        raise KilledError

    monkeypatch.setattr(Checkpoints, "keep_best", die)
    config = config_of(corpus, tmp_path / "run", steps=steps)
    with pytest.raises(KilledError):
        train(config)
    # The row is written last, so the resumed run writes it.
    assert metrics(tmp_path / "run") == []
    assert list_checkpoints(tmp_path / "run" / "best") == []

    def keep(self, step, folder, reason):
        kept.append((step, reason["value"]))
        keep_best(self, step, folder, reason)

    monkeypatch.setattr(Checkpoints, "keep_best", keep)
    assert train(config).first_step == 1
    values = [row["validation_loss"] for row in metrics(tmp_path / "run")]
    assert kept[0] == (1, values[0])
    assert len(values) == steps and best_of(tmp_path / "run")["value"] == min(values)


class Kept:
    """Stands for `Checkpoints` and records the steps that are kept as the best."""

    def __init__(self) -> None:
        self.steps = []

    def keep_best(self, step, _folder, _reason):
        self.steps.append(step)


@dataclasses.dataclass
class Saver:
    """Stands for the saving callback, with every step already saved."""

    checkpoints: Checkpoints | Kept

    def save(self, step, metrics):
        pass

    def check_weights(self, step):
        pass


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("validation_loss", [3.0, 2.0, 2.0, 2.5, NAN, 1.0], [1, 2, 6]),
        ("validation_accuracy", [0.1, 0.3, 0.3, 0.2, NAN, 0.4], [1, 2, 6]),
        ("probe_score", [0.5, None, 0.75], [1, 3]),
        # With --on-nonfinite skip, a run may continue after a metric overflowed.
        ("validation_loss", [NAN, INFINITY, 2.0], [3]),
        ("validation_accuracy", [NAN, 0.0], [2]),
    ],
)
def test_lower_loss_or_higher_score_is_better_and_nonfinite_never_is(tmp_path, metric, values, expected):
    kept = Kept()
    keep_best = KeepBestCheckpoint(Saver(kept), tmp_path, metric, {})
    for step, value in enumerate(values, 1):
        keep_best(Progress(step, 10, metrics={"loss": 9.0}, measurements={} if value is None else {metric: value}))
    assert kept.steps == expected


def test_worker_that_keeps_nothing_fails_on_nonfinite_weights_like_the_chief(tmp_path):
    model = types.SimpleNamespace(trainable_variables=[tf.Variable([1.0, NAN])])
    strategy = tf.distribute.get_strategy()
    saver = SaveCheckpoints(10, Checkpoints(tmp_path / "checkpoints", {}, 1), model, strategy, first_step=0, log=None)
    keep_best = KeepBestCheckpoint(saver, None, "validation_loss", {})
    keep_best(Progress(2, 10))
    with pytest.raises(NonFiniteError, match="weights are no longer finite"):
        keep_best(Progress(3, 10, measurements={"validation/loss": 1.0}))


def best_after(tmp_path, value: float, **measured_on: int) -> dict:
    groups = make_groups()
    checkpoints = Checkpoints(tmp_path / "checkpoints", groups, keep=1)
    keep_best = KeepBestCheckpoint(Saver(checkpoints), tmp_path / "best", "validation_loss", measured_on)
    step = checkpoints.restore() + 1
    checkpoints.save(step)
    keep_best(Progress(step, 10, measurements={"validation/loss": value}))
    return best_of(tmp_path)


def test_best_is_replaced_when_it_was_measured_differently(tmp_path, caplog):
    assert best_after(tmp_path, 1.0, num_validation_pairs=8)["value"] == 1.0
    assert best_after(tmp_path, 2.0, num_validation_pairs=8)["step"] == 1
    assert caplog.text == ""
    # With more pairs the loss is higher.
    assert best_after(tmp_path, 2.0, num_validation_pairs=16) == {
        "step": 3,
        "metric": "validation_loss",
        "measured_on": {"num_validation_pairs": 16},
        "value": 2.0,
    }
    assert "was selected by another measurement (measured_on {'num_validation_pairs': 8}); the next one" in caplog.text


def test_run_fails_if_best_checkpoint_cannot_be_kept(corpus, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best").write_text("in the way of the folder")
    with pytest.raises(ClmrError, match="that of step 1, could not be kept"):
        train(config_of(corpus, tmp_path / "run", steps=3))
