"""Which length a run has, of the two that it can be given."""

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.train.run import resolve_lengths
from tests.synthetic import write_corpus


@pytest.mark.parametrize(("lengths", "steps"), [({"steps": 7}, 7), ({"epochs": 3, "steps": 7}, 6), ({"epochs": 3}, 6)])
def test_epochs_go_before_steps(tmp_path, lengths, steps):
    # Nine songs are two batches of four.
    corpus = write_corpus(tmp_path / "music", num_songs={"train": 9}, num_samples=64)
    config = resolve_lengths(TrainConfig(batch_size=4, **lengths).resolved(), corpus)
    assert config.steps == config.decay_steps == steps
