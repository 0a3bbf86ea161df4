"""The training speed in clips per second."""

import types

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.train import loop as clip_rate
from clmr_tf.train.run import train
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("tiny_network")

BATCH_SIZE = 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 8, "valid": 2}, num_samples=60_000, tag_names=("a", "b"))


@pytest.mark.soak
@pytest.mark.parametrize(
    ("settings", "clips_per_example"),
    [({}, 2), ({"objective": "supervised", "schedule": "constant", "early_stopping": 0}, 1)],
)
def test_rate_is_clips_per_step_at_one_step_per_second(corpus, tmp_path, monkeypatch, settings, clips_per_example):
    seconds = [0.0]
    monkeypatch.setattr(clip_rate, "time", types.SimpleNamespace(monotonic=lambda: seconds[0]))
    count_steps = clip_rate.ClipRate.count_steps

    def count_a_second_for_each(self, num_steps):
        seconds[0] += num_steps
        count_steps(self, num_steps)

    monkeypatch.setattr(clip_rate.ClipRate, "count_steps", count_a_second_for_each)
    rates = []
    quick = {"width": 0.0625, "augmentation": "none", "num_audio_examples": 0, "embeddings_every": 0}
    quick |= {"batch_size": BATCH_SIZE, "validate_every": 0, "log_every": 2, "steps": 4}
    config = TrainConfig(corpus=str(corpus.folder), workdir=tmp_path, **quick, **settings)
    train(config, lambda progress: rates.append(progress.clips_per_second) if progress.metrics else None)
    assert rates == [pytest.approx(clips_per_example * BATCH_SIZE)] * 2
