"""What the chain is given: audio that is not finite or awkward, other precisions, rates and arguments that lack."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.config.augmentation import DelayConfig, Range, augmentation_preset
from clmr_tf.errors import UsageError
from tests.clmr_tf.augment.chains import ALWAYS, BUSY, bits


def test_a_clip_that_is_not_finite_is_reported(noise_clips, make_seeds):
    for chain in (AugmentationChain(BUSY), tf.function(AugmentationChain(BUSY))):
        for value in (np.nan, np.inf, -np.inf):
            clips = noise_clips.copy()
            clips[3, 1000] = value
            with pytest.raises(tf.errors.InvalidArgumentError, match="A clip to be augmented holds NaN or infinity"):
                chain(clips, make_seeds(8))


def test_compiled_a_clip_that_is_not_finite_spoils_no_other(noise_clips, make_seeds):
    chain = tf.function(AugmentationChain(ALWAYS), jit_compile=True)
    clips = noise_clips.copy()
    clips[3, 1000] = np.nan
    views, expected = (chain(audio, make_seeds(8)).numpy() for audio in (clips, noise_clips))
    others = np.arange(8) != 3
    np.testing.assert_array_equal(views[others], expected[others])


def test_awkward_audio_stays_finite(run, awkward_audio, make_seeds):
    views = run(AugmentationChain(ALWAYS), awkward_audio, make_seeds(8))
    assert np.isfinite(views).all()
    assert np.abs(views).max() < 4


def test_static_shape_is_kept():
    @tf.function(input_signature=[tf.TensorSpec([None, 9_000], tf.float32), tf.TensorSpec([None, 2], tf.int32)])
    def make_views(audio, seeds):
        views = AugmentationChain(BUSY)(audio, seeds)
        assert views.shape.as_list() == [None, 9_000]
        fixed = AugmentationChain(BUSY)(tf.ensure_shape(audio, [6, 9_000]), tf.ensure_shape(seeds, [6, 2]))
        assert fixed.shape.as_list() == [6, 9_000]
        return views

    assert make_views.get_concrete_function().output_shapes.as_list() == [None, 9_000]


def test_the_dtype_policy_changes_nothing(noise_clips, make_seeds):
    chain, seeds = AugmentationChain(BUSY), make_seeds(8)
    expected = chain(noise_clips, seeds)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        views = AugmentationChain(BUSY)(noise_clips, seeds)
    finally:
        keras.config.set_dtype_policy(policy)
    assert views.dtype == tf.float32
    np.testing.assert_array_equal(bits(views), bits(expected))


def test_audio_of_lower_precision_is_refused(noise_clips, make_seeds):
    with pytest.raises(UsageError, match="received bfloat16"):
        AugmentationChain(BUSY)(tf.cast(noise_clips, tf.bfloat16), make_seeds(8))


def test_the_rate_of_the_audio_sets_the_delay_in_samples(make_seeds):
    config = dataclasses.replace(augmentation_preset("none"), delay=DelayConfig(1.0, Range(200, 200)))
    impulse = np.zeros([1, 6_000], np.float32)
    impulse[0, 0] = 1
    for rate, offset in ((22_050, 4410), (16_000, 3200), (8_000, 1600)):
        view = AugmentationChain(config, sample_rate_hz=rate)(impulse, make_seeds(1)).numpy()[0]
        np.testing.assert_array_equal(np.nonzero(view)[0], [0, offset])


def test_an_asymmetric_chain_must_be_told_the_first_views(noise_clips, make_seeds):
    with pytest.raises(UsageError, match="needs `augmented`"):
        AugmentationChain(augmentation_preset("only-gain"))(noise_clips, make_seeds(8))


def test_seeds_of_another_batch_are_refused(noise_clips, make_seeds):
    with pytest.raises(UsageError, match="seeds must have one row for each of the 8 clips; received 1"):
        AugmentationChain(BUSY)(noise_clips, make_seeds(1))
