"""Non-finite losses: the run stops with a report, or skips the step."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.data.crops import pair_dataset
from clmr_tf.errors import ClmrError
from clmr_tf.train.checkpoints import Checkpoints, list_checkpoints
from clmr_tf.train.failures import NonFiniteError, write_nonfinite_report
from clmr_tf.train.run import train
from clmr_tf.train.step import ContrastiveModel
from tests.clmr_tf.train.training_runs import metrics, state
from tests.synthetic import synthetic_corpus
from tests.tiny_network import CLIP_NUM_SAMPLES

pytestmark = pytest.mark.usefixtures("tiny_network")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 9}, num_samples=60_000, tag_names=("a", "b"))


def config_of(corpus, workdir, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "augmentation": "none", "num_audio_examples": 0, "embeddings_every": 0}
    return TrainConfig(**{"corpus": str(corpus.folder), "workdir": workdir, **quick, "validate_every": 0, **settings})


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the loss NaN at the given steps of this process, counted from 1."""

    def poison(*numbers: int) -> None:
        loss_and_metrics = ContrastiveModel.loss_and_metrics

        def with_nan(self, *arguments, **options):
            loss, metrics = loss_and_metrics(self, *arguments, **options)
            is_one = tf.reduce_any(tf.equal(self.weight_update.num_steps + 1, numbers))
            return tf.where(is_one, np.nan, 1.0) * loss, metrics

        monkeypatch.setattr(ContrastiveModel, "loss_and_metrics", with_nan)

    return poison


def test_run_stops_and_reports_items_and_weights_before_the_step(corpus, tmp_path, poisoned):
    train(config_of(corpus, tmp_path / "shorter", steps=3))
    workdir = tmp_path / "run"
    train(config_of(corpus, workdir, steps=2))
    # The second step after the start is step 4 of the run; it is detected at step 6.
    poisoned(2)
    words = r"not finite at step 4\. The state after step 2 is saved; .* are in .*nonfinite/step-4"
    with pytest.raises(ClmrError, match=words):
        train(config_of(corpus, workdir, steps=20, log_every=6, steps_per_execution=3))
    folder = workdir / "nonfinite" / "step-4"
    batch = next(
        iter(pair_dataset(corpus, "train", batch_size=4, clip_num_samples=CLIP_NUM_SAMPLES, seed=42).skip(3).take(1))
    )
    items = [corpus.items_of("train")[row].id for row in batch["item"].numpy()]
    report = json.loads((folder / "report.json").read_text())
    assert report == {"step": 4, "checked_steps": [3, 6], "items": items} and len(set(items)) == 4
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["step-000000003"]
    kept, expected = state(folder), state(tmp_path / "shorter")
    assert kept.keys() == expected.keys()
    # The forward passes have updated the running statistics.
    different = {name.split("/")[1].split(".S")[1] for name in kept if kept[name].tobytes() != expected[name].tobytes()}
    assert different <= {"moving_mean", "moving_variance"}
    # The run itself is unchanged.
    assert all(np.isfinite(value).all() for value in state(workdir).values() if value.dtype.kind == "f")
    assert [path.name for path in list_checkpoints(workdir / "checkpoints")] == ["step-000000002"]
    assert [row["step"] for row in metrics(workdir)] == [2]


def test_error_is_complete_even_if_report_cannot_be_written(tmp_path):
    (tmp_path / "nonfinite").write_text("in the way of the folder")
    folder = tmp_path / "nonfinite" / "step-4"
    sentence = write_nonfinite_report(
        folder, NonFiniteError.of_step(4, (3, 6), 2), Checkpoints(folder, {}, 1), ["item-1"]
    )
    assert sentence.startswith("The loss or the gradient was not finite at step 4. The state after step 2 is saved; ")
    assert sentence.endswith(f" The items of its batch and the weights could not be written to {folder}.")


@pytest.mark.soak
def test_stopped_run_can_resume_with_on_nonfinite_skip(corpus, tmp_path, poisoned):
    settings = {"log_every": 1, "steps": 4}
    train(config_of(corpus, tmp_path / "run", **{**settings, "steps": 1}))
    poisoned(2)
    with pytest.raises(ClmrError, match=r"not finite at step 3\..* --on-nonfinite skip"):
        train(config_of(corpus, tmp_path / "run", **settings))
    train(config_of(corpus, tmp_path / "run", on_nonfinite="skip", **settings))
    assert [row["num_skipped"] for row in metrics(tmp_path / "run")] == [0, 0, 1, 1]


def test_skipped_step_is_counted_and_warned_about(corpus, tmp_path, poisoned, caplog):
    skipping = {"log_every": 1, "on_nonfinite": "skip"}
    poisoned(2)
    train(config_of(corpus, tmp_path / "run", steps=4, **skipping))
    said = "1 steps were skipped since the run began, 1 of the last 1, because"
    assert sum(said in record.message for record in caplog.records) == 1
    train(config_of(corpus, tmp_path / "run", steps=5, **skipping))
    rows = metrics(tmp_path / "run")
    # The count belongs to the run, not to the process.
    assert [row["num_skipped"] for row in rows] == [0, 1, 1, 1, 1]
    assert [row["gradient_norm"] is not None for row in rows] == [True, False, True, True, True]
    saved = state(tmp_path / "run")
    assert all(np.isfinite(value).all() for value in saved.values() if value.dtype.kind == "f")
    # The optimizer made four updates.
    iterations = [value for name, value in saved.items() if re.match(r"optimizer/0/", name)]
    assert iterations == [4]
    assert not (tmp_path / "run" / "nonfinite").exists()
