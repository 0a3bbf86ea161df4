"""What all effects share: transforming selected rows only, rejecting invalid arguments, keeping NaN in its clip."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import add_noise, delay, gain, highpass, lowpass, pitch_shift, polarity, reverb
from clmr_tf.augment.effect import transform_selected
from clmr_tf.errors import UsageError

RATE_HZ = 22_050


@pytest.mark.parametrize("num_rows", [1, 8, 20])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_selected_rows_are_transformed_with_their_own_parameters(num_rows, fraction):
    generator = np.random.default_rng(num_rows)
    audio = generator.standard_normal([num_rows, 30]).astype(np.float32)
    offset = np.arange(num_rows, dtype=np.float32)
    selected = generator.random(num_rows) < fraction

    def subtract(clips, parameters):
        return parameters["offset"][:, tf.newaxis] - clips

    received = transform_selected(subtract, tf.constant(audio), {"offset": offset}, tf.constant(selected))
    np.testing.assert_array_equal(received, np.where(selected[:, None], offset[:, None] - audio, audio))


def test_at_most_seven_rows_are_computed_and_discarded():
    num_computed_rows = tf.Variable(0)

    def count(audio, parameters):
        num_computed_rows.assign_add(audio.shape[0])
        return audio

    @tf.function
    def transform(selected):
        return transform_selected(count, tf.zeros([20, 50]), {}, selected)

    for num_selected in (0, 1, 8, 9, 16, 20):
        num_computed_rows.assign(0)
        # From the end of the batch, where they do not fill a chunk of their own.
        transform(tf.range(20) >= 20 - num_selected)
        assert num_computed_rows.numpy() == 8 * -(-num_selected // 8)


def seeds_of(audio):
    return np.arange(2 * len(audio), dtype=np.int32).reshape(-1, 2)


def every(value, audio):
    return np.full(len(audio), value, np.float32)


EFFECTS = {
    "polarity": polarity,
    "noise": lambda audio: add_noise(audio, every(0.1, audio), seeds_of(audio)),
    "gain": lambda audio: gain(audio, every(-6, audio)),
    "lowpass": lambda audio: lowpass(audio, every(3000, audio), RATE_HZ),
    "highpass": lambda audio: highpass(audio, every(500, audio), RATE_HZ),
    "delay": lambda audio: delay(audio, every(200, audio), every(0.5, audio), RATE_HZ),
    "pitch": lambda audio: pitch_shift(audio, every(300, audio), RATE_HZ),
    "reverb": lambda audio: reverb(audio, every(50, audio), every(50, audio), every(50, audio), RATE_HZ),
}


@pytest.mark.parametrize("shape", [(0, 9_000), (2, 0)])
@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
def test_empty_audio_is_rejected(effect, shape):
    with pytest.raises(
        UsageError, match=rf"at least one clip of at least one sample; received \({shape[0]}, {shape[1]}"
    ):
        effect(np.zeros(shape, np.float32))


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
def test_nan_stays_in_its_clip(effect, noise_clips):
    broken = noise_clips.copy()
    broken[3, 1_000] = np.nan
    received, expected = (effect(audio).numpy() for audio in (broken, noise_clips))
    others = np.arange(8) != 3
    np.testing.assert_array_equal(received[others], expected[others])
    assert np.isnan(received[3]).any()


@pytest.mark.parametrize(
    ("audio", "gain_db", "message"),
    [
        (np.zeros([2, 9, 1], np.float32), np.zeros(2, np.float32), r"audio must be float32 \[batch, samples\]"),
        (np.zeros([9], np.float32), np.zeros(2, np.float32), r"audio must be float32 \[batch, samples\]"),
        (tf.zeros([2, 9], tf.bfloat16), np.zeros(2, np.float32), r"audio must be .* received bfloat16 \(2, 9\)"),
        (np.zeros([2, 9], np.float32), np.float32(-6), r"gain_db must be float32 \[batch\]"),
        (np.zeros([2, 9], np.float32), np.zeros([2, 1], np.float32), r"gain_db must be float32 \[batch\]"),
        (np.zeros([2, 9], np.float32), np.zeros([1], np.float32), "one row for each of the 2 clips; received 1"),
    ],
)
def test_arguments_of_other_dtypes_and_shapes_are_rejected(audio, gain_db, message):
    with pytest.raises(UsageError, match=message):
        gain(audio, gain_db)
