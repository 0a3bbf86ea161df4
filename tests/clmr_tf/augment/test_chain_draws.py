"""What the chain draws, and how often it applies what."""

import dataclasses

import numpy as np
import tensorflow as tf

from clmr_tf.augment import AugmentationChain
from clmr_tf.config.augmentation import AUGMENTATION_NAMES, AugmentationConfig
from tests.clmr_tf.augment.chains import BUSY

NUM_VIEWS = 4_000


def applied_by_name(chain, seeds):
    draws = tf.function(chain.draw)(tf.constant(seeds))
    return {name: parameters["applied"].numpy() for name, parameters in draws.items()}


def test_each_augmentation_is_applied_as_often_as_its_probability_says(make_seeds):
    config = AugmentationConfig()
    applied = applied_by_name(AugmentationChain(config), make_seeds(NUM_VIEWS))
    assert tuple(applied) == AUGMENTATION_NAMES
    for name, choices in applied.items():
        probability = getattr(config, name).probability
        sigma = np.sqrt(NUM_VIEWS * probability * (1 - probability))
        assert abs(choices.sum() - NUM_VIEWS * probability) < 3 * sigma, name


def test_draws_are_independent_between_augmentations_views_and_steps(make_seeds):
    chain = AugmentationChain(BUSY)
    first, second = (applied_by_name(chain, make_seeds(NUM_VIEWS, stream)) for stream in (1, 2))
    columns = [*first.values(), *second.values()]
    columns += [np.roll(choices, shift) for choices in first.values() for shift in (1, 2)]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(NUM_VIEWS)


def test_drawn_parameters_fill_their_ranges_evenly(make_seeds):
    draws = tf.function(AugmentationChain(AugmentationConfig()).draw)(tf.constant(make_seeds(NUM_VIEWS)))
    quantiles = np.arange(0, 1.01, 0.1)
    for name, parameter, low, high in (
        ("gain", "gain_db", -20, -1),
        ("noise", "noise_to_signal", 1e-4, 1e-2),
        ("pitch", "cents", -700, 700),
        ("reverb", "reverberance", 0, 99),
        ("reverb", "damping", 0, 99),
        ("reverb", "room_scale", 0, 99),
    ):
        values = (draws[name][parameter].numpy() - low) / (high - low)
        assert 0 <= values.min() <= values.max() <= 1
        # The middle decile of 4,000 numbers has a standard deviation of 0.008.
        np.testing.assert_allclose(np.quantile(values, quantiles), quantiles, atol=0.03)
    is_lowpass, cutoff_hz = draws["filter"]["is_lowpass"].numpy(), draws["filter"]["cutoff_hz"].numpy()
    assert abs(is_lowpass.mean() - 0.5) < 3 * 0.5 / np.sqrt(NUM_VIEWS)
    for chosen, low, high in ((is_lowpass, 2200, 4000), (~is_lowpass, 200, 1200)):
        np.testing.assert_allclose(
            np.quantile((cutoff_hz[chosen] - low) / (high - low), quantiles), quantiles, atol=0.04
        )
    delays_ms, counts = np.unique(draws["delay"]["delay_ms"], return_counts=True)
    np.testing.assert_array_equal(delays_ms, [200, 250, 300, 350, 400, 450])
    assert np.abs(counts - NUM_VIEWS / 6).max() < 3.5 * np.sqrt(NUM_VIEWS * 5 / 36)
    np.testing.assert_array_equal(draws["delay"]["volume"], np.full(NUM_VIEWS, 0.5, np.float32))
    # Whether it is applied says nothing about how strongly.
    chosen = draws["gain"]["applied"].numpy()
    gain_db = draws["gain"]["gain_db"].numpy()
    assert abs(gain_db[chosen].mean() - gain_db[~chosen].mean()) < 4 * 5.5 / np.sqrt(0.21 * NUM_VIEWS)


def test_leaving_one_out_does_not_change_the_draws_of_the_others(make_seeds):
    seeds = make_seeds(50)
    everything = AugmentationChain(BUSY).draw(seeds)
    for name in AUGMENTATION_NAMES:
        without = dataclasses.replace(getattr(BUSY, name), probability=0.0)
        draws = AugmentationChain(dataclasses.replace(BUSY, **{name: without})).draw(seeds)
        assert set(draws) == set(AUGMENTATION_NAMES) - {name}
        for other, parameters in draws.items():
            for parameter, values in parameters.items():
                np.testing.assert_array_equal(values, everything[other][parameter])


def test_compiled_draws_have_the_same_statistics(make_seeds):
    chain = AugmentationChain(BUSY)
    draws = tf.function(chain.draw, jit_compile=True)(tf.constant(make_seeds(NUM_VIEWS)))
    for name in AUGMENTATION_NAMES:
        assert abs(draws[name]["applied"].numpy().mean() - 0.5) < 3 * 0.5 / np.sqrt(NUM_VIEWS)
    gain_db = np.sort(draws["gain"]["gain_db"].numpy())
    np.testing.assert_allclose(gain_db, np.linspace(-20, -1, NUM_VIEWS), atol=0.03 * 19)
