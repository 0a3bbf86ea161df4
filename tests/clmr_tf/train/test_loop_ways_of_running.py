"""Training with --jit."""

import numpy as np
import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.train.run import train
from tests.clmr_tf.train.training_runs import metrics
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("tiny_network")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 9}, num_samples=60_000, tag_names=("a", "b"))


def config_of(corpus, workdir, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "augmentation": "none", "num_audio_examples": 0, "embeddings_every": 0}
    quick |= {"log_every": 1, "validate_every": 0}
    return TrainConfig(**{"corpus": str(corpus.folder), "workdir": workdir, **quick, **settings})


@pytest.mark.soak
def test_xla_compiled_step_has_the_same_statistics(corpus, tmp_path):
    rows = {}
    for jit in (False, True):
        # The gains differ: XLA draws other numbers from the same seed on a CPU.
        train(config_of(corpus, tmp_path / str(jit), jit=jit, steps=10, augmentation="only-gain", learning_rate=1e-5))
        rows[jit] = metrics(tmp_path / str(jit))
    assert len(rows[True]) == 10 and rows[True] != rows[False]
    for name, tolerance in (("loss", 0.04), ("embedding_std", 0.1), ("projection_std", 0.1)):
        means = [np.mean([row[name] for row in rows[jit]]) for jit in (False, True)]
        assert means[1] == pytest.approx(means[0], rel=tolerance), name
