"""The random numbers of a view: uniform, independent, and a function of its seeds alone."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment.randomness import NUM_ROWS, NUM_UNIFORMS, ViewRandomness, fold_in, sample_range
from clmr_tf.config.augmentation import AUGMENTATION_NAMES, Range

NUM_VIEWS = 4_000
PINNED_UNIFORMS = {
    "polarity": 0.8112197,
    "noise": 0.0465069,
    "gain": 0.3845843,
    "filter": 0.6944498,
    "delay": 0.23125,
    "pitch": 0.8160764,
    "reverb": 0.3573352,
}
PINNED_NOISE_SEEDS = [[-1047427342, 683053669]]


def kolmogorov_smirnov(values, low, high):
    """Largest distance between the distribution of `values` and the uniform one, times the root of their number."""
    expected = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    return np.sqrt(len(values)) * max(np.max(steps[1:] - expected), np.max(expected - steps[:-1]))


@tf.function
def all_uniforms(seeds):
    randomness = ViewRandomness(seeds)
    return tf.stack([randomness.uniforms(name) for name in AUGMENTATION_NAMES], axis=1)


@pytest.fixture(params=["random", "counted in the first", "counted in the second"])
def seeds(request, make_seeds):
    counter = np.arange(NUM_VIEWS, dtype=np.int32)
    constant = np.full(NUM_VIEWS, 42, np.int32)
    return {
        "random": make_seeds(NUM_VIEWS),
        "counted in the first": np.stack([counter, constant], axis=1),
        "counted in the second": np.stack([constant, counter], axis=1),
    }[request.param]


def test_uniforms_are_uniform(seeds):
    numbers = all_uniforms(seeds).numpy()
    assert numbers.shape == (NUM_VIEWS, len(AUGMENTATION_NAMES), NUM_UNIFORMS)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.reshape(NUM_VIEWS, -1).T:
        # 1.95 is passed once in a thousand; there are 28 columns for each of three kinds of seeds.
        assert kolmogorov_smirnov(column, 0, 1) < 2.2


def test_uniforms_of_augmentations_and_of_neighbouring_views_are_uncorrelated(seeds):
    numbers = all_uniforms(seeds).numpy().reshape(NUM_VIEWS, -1)
    bound = 5 / np.sqrt(NUM_VIEWS)
    between_columns = np.corrcoef(numbers.T) - np.eye(numbers.shape[1])
    assert np.abs(between_columns).max() < bound
    for distance in (1, 2, 96):
        between_views = np.corrcoef(numbers[:-distance].T, numbers[distance:].T)
        assert np.abs(between_views[: numbers.shape[1], numbers.shape[1] :]).max() < bound


def test_uniforms_depend_on_their_own_seeds_only(make_seeds):
    seeds = make_seeds(7)
    together = all_uniforms(seeds).numpy()
    np.testing.assert_array_equal(all_uniforms(seeds[::-1]).numpy()[::-1], together)
    for row in range(7):
        np.testing.assert_array_equal(all_uniforms(seeds[row : row + 1]).numpy()[0], together[row])


def test_uniforms_never_change_between_versions():
    """A run of an older version that is resumed must get the same views: never update these numbers."""
    randomness = ViewRandomness(np.array([[20_210_717, -5]], np.int32))
    assert {name: float(randomness.uniforms(name)[0, 0]) for name in AUGMENTATION_NAMES} == pytest.approx(
        PINNED_UNIFORMS, abs=1e-7
    )
    assert randomness.seeds("noise").numpy().tolist() == PINNED_NOISE_SEEDS


def test_there_is_room_for_every_augmentation():
    assert len(AUGMENTATION_NAMES) <= NUM_ROWS


def test_folded_seeds_differ_between_purposes_and_views(make_seeds):
    seeds = make_seeds(500)
    purposes = ("parameters", *AUGMENTATION_NAMES)
    folded = {purpose: fold_in(seeds, purpose).numpy() for purpose in purposes}
    pairs = {tuple(pair) for purpose in purposes for pair in folded[purpose].tolist()}
    assert len(pairs) == 500 * len(purposes)
    for one, other in itertools.combinations(purposes, 2):
        assert np.all(folded[one] != folded[other])


def test_a_continuous_range_is_covered_evenly():
    uniforms = np.random.default_rng(1).random(NUM_VIEWS).astype(np.float32)
    chosen = sample_range(Range(-20, -1), uniforms).numpy()
    assert chosen.dtype == np.float32
    assert kolmogorov_smirnov(chosen, -20, -1) < 2.2
    ends = sample_range(Range(-20, -1), np.array([0, 1 - 2**-24], np.float32)).numpy()
    np.testing.assert_allclose(ends, [-20, -1], atol=1e-5)
    assert ends.max() <= -1


@pytest.mark.parametrize(
    ("numbers", "values"),
    [
        (Range(200, 450, step=50), [200, 250, 300, 350, 400, 450]),
        (Range(200, 499, step=50), [200, 250, 300, 350, 400, 450]),
        (Range(0, 0.3, step=0.1), [0, 0.1, 0.2, 0.3]),
        (Range(-1, 1, step=1), [-1, 0, 1]),
        (Range(5, 5, step=2), [5]),
        (Range(5, 5), [5]),
    ],
)
def test_every_step_of_a_range_is_equally_frequent(numbers, values):
    uniforms = np.random.default_rng(2).random(NUM_VIEWS).astype(np.float32)
    uniforms[:2] = 0, 1 - 2**-24
    chosen, counts = np.unique(sample_range(numbers, uniforms).numpy(), return_counts=True)
    np.testing.assert_allclose(chosen, values, rtol=1e-6)
    fraction = 1 / len(values)
    sigma = np.sqrt(NUM_VIEWS * fraction * (1 - fraction))
    assert np.abs(counts - NUM_VIEWS * fraction).max() <= 3.5 * sigma


def test_both_ends_of_a_range_are_reached():
    uniforms = np.array([0, 1 - 2**-24], np.float32)
    np.testing.assert_array_equal(sample_range(Range(-700, 700, step=1), uniforms), [-700, 700])
