"""The log-mel spectrogram against librosa's numbers, and MelCNN against a NumPy transcription."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES, dtype_policy
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.log_mel import LogMel
from clmr_tf.models.mel_cnn import MelCNN
from tests.reference.mel_cnn import log_mel, mel_cnn, music
from tests.reference.random_weights import normalization_of, randomize

# Samples of a window and number of frames by sample rate.
WINDOWS = {22050: (1024, 114), 16000: (744, 115), 8000: (372, 110)}
RATES = sorted(CLIP_NUM_SAMPLES)


@pytest.mark.parametrize("rate", RATES)
def test_the_spectrogram_has_librosas_numbers(rate):
    golden = np.load(Path(__file__).parents[2] / "golden" / "reference_log_mel.npz")[f"log_mel_{rate}"]
    audio = music(CLIP_NUM_SAMPLES[rate], rate)
    window, num_frames = WINDOWS[rate]
    received = LogMel(rate, window, 64)(tf.constant(audio)).numpy()
    assert received.shape == (2, num_frames, 64) and received.dtype == np.float32
    np.testing.assert_allclose(received[:, ::10], golden, rtol=0, atol=1e-4)
    # From silence to loud: the golden numbers are not all beyond the floor.
    assert golden.min() < 0.01 and golden.max() > 10


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_transcription(rate, training):
    model = build_encoder("mel_cnn", width=0.0625, sample_rate_hz=rate, seed=3)
    randomize(model)

    def block(layer, normalization) -> dict:
        return {"kernel": layer.kernel.numpy().astype(np.float64), **normalization_of(normalization)}

    audio = music(CLIP_NUM_SAMPLES[rate], rate)
    # With two clips, the last normalisation would amplify the rounding where they are nearly equal.
    audio = np.concatenate([audio, 0.3 * audio[:, ::-1], 0.1 * np.roll(audio, 5000, axis=1)])
    expected, statistics = mel_cnn(
        audio,
        normalization_of(model.band_normalization),
        [block(*pair) for pair in zip(model.convolutions, model.normalizations, strict=True)],
        block(model.embedding, model.embedding_normalization),
        training,
        rate_hz=rate,
        window=WINDOWS[rate][0],
        num_bands=64,
    )
    received = model(audio, training=training).numpy()
    assert received.shape == (6, 512)
    np.testing.assert_allclose(received, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
    assert np.std(expected) > 0.1
    layers = [model.band_normalization, *model.normalizations, model.embedding_normalization]
    for normalization, (mean, variance) in zip(layers, statistics, strict=True):
        np.testing.assert_allclose(normalization.moving_mean.numpy(), mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(normalization.moving_variance.numpy(), variance, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "channels"),
    [(1.0, [64, 128, 256, 512, 1024]), (0.5, [32, 64, 128, 256, 512]), (0.06, [8, 8, 16, 32, 64])],
)
def test_width_scales_the_convolutions_and_leaves_512_outputs(width, channels):
    model = build_encoder("mel_cnn", width=width)
    expected = [(3, 3, *pair) for pair in zip([1, *channels], channels, strict=False)]
    assert [tuple(layer.kernel.shape) for layer in model.convolutions] == expected
    assert tuple(model.embedding.kernel.shape) == (channels[-1], 512)


def test_mixed_precision_keeps_the_spectrogram_in_float32():
    exact = build_encoder("mel_cnn", width=0.0625, seed=3)
    randomize(exact)
    with dtype_policy("mixed_bfloat16"):
        mixed = MelCNN(width=0.0625)
        mixed.build()
    mixed.set_weights(exact.get_weights())
    audio = music(59049, 22050)
    # In bfloat16 the error of the audio alone would be 48 dB below it, and quiet bands nothing but that error.
    before = mixed.band_normalization.moving_mean.numpy()
    received = mixed(tf.constant(audio), training=True)
    expected = exact(tf.constant(audio), training=True)
    assert received.dtype == tf.bfloat16 and all(variable.dtype == "float32" for variable in mixed.variables)
    moved = mixed.band_normalization.moving_mean.numpy()
    np.testing.assert_allclose(moved, exact.band_normalization.moving_mean.numpy(), rtol=1e-6)
    assert np.abs(moved - before).max() > 0.1
    correlation = np.corrcoef(tf.cast(received, tf.float32).numpy().ravel(), expected.numpy().ravel())[0, 1]
    assert correlation > 0.98


def test_bands_that_the_rate_does_not_allow_are_refused():
    # 2,000 Hz: 64 bands are 22 Hz wide, and a window of 64 samples has a frequency every 31 Hz.
    with pytest.raises(ValueError, match=r"fewer bands or a longer window.*64 bands at 2000 Hz.*contains none"):
        LogMel(2000, 64, 64)
    with pytest.raises(ValueError, match="multiple of 4"):
        LogMel(22050, 1022, 64)


def test_the_spectrogram_of_silence_is_zero_and_of_full_scale_is_finite():
    spectrogram = LogMel(22050, 1024, 64)
    assert not spectrogram(tf.zeros([1, 4096])).numpy().any()
    square = np.sign(np.sin(np.arange(4096) * 0.05)).astype(np.float32)[np.newaxis]
    np.testing.assert_allclose(spectrogram(tf.constant(square)), log_mel(square, 22050, 1024, 64), rtol=1e-4, atol=1e-4)
