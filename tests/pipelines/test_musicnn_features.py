from pathlib import Path

import numpy as np
import pytest
import soxr

from clmr_tf.probe.features import import_source
from pipelines import musicnn
from pipelines.musicnn import MusicnnFeatures
from tests.pipelines.musicnn_inputs import music, noise_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "reference_musicnn.npz"
CLIP_NUM_SAMPLES, RATE_HZ = 59_049, 22_050


@pytest.fixture
def weights(monkeypatch):
    """Made-up weights of the real shapes, in place of those that have to be fetched."""
    with np.load(GOLDEN) as golden:
        shapes = zip(golden["weight_names"].tolist(), golden["weight_shapes"].tolist(), strict=True)
        made_up = noise_weights({name: tuple(map(int, shape.split(","))) for name, shape in shapes})
    monkeypatch.setenv("MUSICNN_WHEEL", "made-up.whl")
    monkeypatch.setattr(musicnn, "read_weights", lambda wheel: made_up)
    return made_up


def test_the_last_layer_on_the_features_gives_the_tagger(weights):
    song = soxr.resample(music(), 16_000, RATE_HZ)
    clips = np.stack([song[start : start + CLIP_NUM_SAMPLES] for start in (0, 100_000)])
    source = import_source("pipelines.musicnn:MusicnnFeatures", CLIP_NUM_SAMPLES, RATE_HZ)
    features = source.features_of(clips)
    assert features.shape == (2, 200) and features.std() > 0.1
    windows = np.stack([soxr.resample(clip, RATE_HZ, 16_000) for clip in clips])
    expected = musicnn.build_tagger(weights, 166).predict_on_batch(musicnn.log_mel(windows))
    logits = features @ weights["dense_1/kernel"] + weights["dense_1/bias"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, atol=2e-5)


def test_other_lengths_are_other_features():
    one, other = MusicnnFeatures(CLIP_NUM_SAMPLES, RATE_HZ), MusicnnFeatures(20_736, 8_000)
    assert one.identity != other.identity
    assert one.describe()["layer"] == "penultimate"
