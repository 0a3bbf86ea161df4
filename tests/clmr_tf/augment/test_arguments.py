"""What every augmentation says of audio that cannot be, and what becomes of NaN."""

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import AugmentationChain, add_noise, delay, gain, highpass, lowpass, pitch_shift, polarity, reverb
from clmr_tf.config.augmentation import AugmentationConfig, augmentation_preset
from clmr_tf.errors import UsageError

RATE_HZ = 22_050


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
    "chain": lambda audio: AugmentationChain(AugmentationConfig())(audio, seeds_of(audio)),
}


@pytest.mark.parametrize(("num_clips", "num_samples"), [(0, 9_000), (2, 0)])
@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
def test_audio_that_holds_nothing_is_refused(effect, num_clips, num_samples):
    words = rf"at least one clip of at least one sample; received \({num_clips}, {num_samples}\)"
    with pytest.raises(UsageError, match=words):
        effect(np.zeros([num_clips, num_samples], np.float32))


def test_a_batch_whose_size_the_graph_does_not_know_may_turn_out_empty():
    chain = tf.function(
        AugmentationChain(AugmentationConfig()),
        input_signature=[tf.TensorSpec([None, 9_000]), tf.TensorSpec([None, 2], tf.int32)],
    )
    assert chain(np.zeros([0, 9_000], np.float32), np.zeros([0, 2], np.int32)).shape == (0, 9_000)


@pytest.mark.parametrize("effect", [name for name in EFFECTS if name != "chain"])
def test_nan_stays_in_its_clip_and_can_be_seen_there(effect, noise_clips):
    broken = noise_clips.copy()
    broken[3, 1_000] = np.nan
    received, expected = (EFFECTS[effect](audio).numpy() for audio in (broken, noise_clips))
    others = np.arange(8) != 3
    np.testing.assert_array_equal(received[others], expected[others])
    assert np.isnan(received[3]).any()


@pytest.mark.parametrize(
    ("augmented", "words"),
    [
        ([True, False, True], "augmented must have one row for each of the 8 clips; received 3"),
        ([True], "augmented must have one row for each of the 8 clips; received 1"),
        (True, r"augmented must be bool \[batch\], True .*; received bool \(\)"),
        (np.ones([8, 1], bool), r"augmented must be bool \[batch\], .*; received bool \(8, 1\)"),
        (np.ones(8, np.float32), r"augmented must be bool \[batch\], .*; received float32 \(8,\)"),
        ([1, 0, 1, 0, 1, 0, 1, 0], r"augmented must be bool \[batch\], .*; received int32 \(8,\)"),
    ],
)
def test_first_views_are_told_by_a_truth_value_each(noise_clips, augmented, words):
    chain = AugmentationChain(augmentation_preset("only-polarity"))
    with pytest.raises(UsageError, match=words):
        chain(noise_clips, seeds_of(noise_clips), augmented)
