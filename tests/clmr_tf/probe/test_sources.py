"""What heads learn from: the mel statistics against their definition, and identities that tell sources apart."""

import numpy as np
import pytest

from clmr_tf.inference.encoder import Encoder
from clmr_tf.models.sample_cnn import build_encoder
from clmr_tf.probe.features import EncoderFeatures, MajorityFeatures, MelFeatures
from tests.synthetic import melody

CLIP, RATE_HZ = 8192, 22050


def slow_mel_statistics(clip: np.ndarray) -> np.ndarray:
    """Frame by frame and band by band, in float64."""
    edges_mel = np.linspace(2595 * np.log10(1 + 30 / 700), 2595 * np.log10(1 + 11025 / 700), 98)
    bins_mel = 2595 * np.log10(1 + np.arange(1025) * RATE_HZ / 2048 / 700)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    levels = []
    for start in range(0, len(clip) - 2047, 1024):
        power = np.abs(np.fft.rfft(window * clip[start : start + 2048])) ** 2
        bands = []
        for low, middle, high in zip(edges_mel, edges_mel[1:], edges_mel[2:], strict=False):
            rising, falling = (bins_mel - low) / (middle - low), (high - bins_mel) / (high - middle)
            # The lowest bin, a constant offset, is in no band.
            bands.append(np.sum((np.maximum(0, np.minimum(rising, falling)) * power)[1:]))
        levels.append(np.log(np.array(bands) + 1e-6))
    return np.concatenate([np.mean(levels, axis=0), np.std(levels, axis=0)])


def test_mel_statistics_are_those_of_the_definition():
    clips = np.stack([melody(seed, CLIP) for seed in range(2)])
    source = MelFeatures(CLIP, RATE_HZ)
    received = source.features_of(clips)
    assert received.shape == (2, 192) and received.dtype == np.float32
    np.testing.assert_allclose(received, [slow_mel_statistics(clip) for clip in clips], atol=2e-3)
    assert source.needs_standardising
    # Silence is the floor in every band and every frame.
    silence = source.features_of(np.zeros((1, CLIP), np.float32))[0]
    np.testing.assert_allclose(silence, [np.log(1e-6)] * 96 + [0] * 96, atol=1e-4)


def test_no_features_are_none():
    assert MajorityFeatures(CLIP, RATE_HZ).features_of(np.zeros((3, CLIP))).shape == (3, 0)


@pytest.fixture(scope="module")
def encoders():
    return [
        Encoder(model, model.clip_num_samples, RATE_HZ)
        for model in (build_encoder(width=0.0625, seed=seed) for seed in (1, 1, 2))
    ]


def test_an_encoder_is_known_by_its_weights(encoders):
    one, same, other = (EncoderFeatures(encoder, "model", {}) for encoder in encoders)
    assert one.identity == same.identity != other.identity
    encoders[1].model.normalizations[0].moving_mean.assign_add(
        np.full(encoders[1].model.normalizations[0].moving_mean.shape, 1e-6, np.float32)
    )
    assert EncoderFeatures(encoders[1], "model", {}).identity != one.identity


def test_the_features_of_an_encoder_are_its_embeddings(encoders):
    clips = melody(3, 59049)[None]
    source = EncoderFeatures(encoders[2], "untrained", {"seed": 2})
    np.testing.assert_array_equal(source.features_of(clips), encoders[2].encode_clips(clips))
    assert source.describe() == {"kind": "untrained", "model_hash": source.identity, "seed": 2}
    assert MelFeatures(CLIP, RATE_HZ).identity != MelFeatures(CLIP, 16000).identity
