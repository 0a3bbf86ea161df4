"""The chain: what it draws and how often, and that a view is its clip's and its seed's alone."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import (
    AugmentationChain,
    add_noise,
    delay,
    gain,
    highpass,
    lowpass,
    pitch_shift,
    polarity,
    reverb,
)
from clmr_tf.augmentation_config import (
    AUGMENTATION_NAMES,
    AugmentationConfig,
    DelayConfig,
    FilterConfig,
    GainConfig,
    NoiseConfig,
    PitchConfig,
    PolarityConfig,
    Range,
    ReverbConfig,
    augmentation_preset,
)
from clmr_tf.errors import UsageError

NUM_VIEWS = 4_000
BUSY = AugmentationConfig(
    PolarityConfig(0.5),
    NoiseConfig(0.5),
    GainConfig(0.5),
    FilterConfig(0.5),
    DelayConfig(0.5),
    PitchConfig(0.5),
    ReverbConfig(0.5),
)
CHEAP = dataclasses.replace(BUSY, filter=FilterConfig(0.0), pitch=PitchConfig(0.0), reverb=ReverbConfig(0.0))


def bits(audio):
    return np.asarray(audio).view(np.uint32)


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


@pytest.fixture
def many_clips():
    """39 short clips: enough rows for vectorised arithmetic, with some left over at the end."""
    return np.random.default_rng(9).standard_normal([39, 6_000]).astype(np.float32) / 10


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_view_depends_on_its_clip_and_seeds_alone(many_clips, make_seeds, jit_compile):
    chain, seeds = tf.function(AugmentationChain(BUSY), jit_compile=jit_compile), make_seeds(39)
    together = chain(many_clips, seeds).numpy()
    assert np.sum(np.any(together != many_clips, axis=1)) > 30
    np.testing.assert_array_equal(bits(chain(many_clips[::-1], seeds[::-1]))[::-1], bits(together))
    np.testing.assert_array_equal(bits(chain(many_clips[:7], seeds[:7])), bits(together[:7]))
    for row in range(39):
        alone = chain(many_clips[row : row + 1], seeds[row : row + 1])
        np.testing.assert_array_equal(bits(alone[0]), bits(together[row]))


def test_eager_function_and_dataset_give_the_same_bits(many_clips, make_seeds):
    chain, seeds = AugmentationChain(BUSY), make_seeds(39)
    eager = chain(many_clips, seeds)
    dataset = tf.data.Dataset.from_tensors((many_clips, seeds)).map(chain, num_parallel_calls=2)
    np.testing.assert_array_equal(bits(tf.function(chain)(many_clips, seeds)), bits(eager))
    np.testing.assert_array_equal(bits(dataset.get_single_element()), bits(eager))


def transformed(name, audio, of):
    """One augmentation by its public function."""
    audio = tf.constant(audio)
    if name == "filter":
        low, high = (function(audio, of["cutoff_hz"], 22_050, 200.0) for function in (lowpass, highpass))
        return tf.where(of["is_lowpass"][:, None], low, high)
    return {
        "polarity": lambda: polarity(audio),
        "noise": lambda: add_noise(audio, of["noise_to_signal"], of["seeds"]),
        "gain": lambda: gain(audio, of["gain_db"]),
        "delay": lambda: delay(audio, of["delay_ms"], of["volume"], 22_050),
        "pitch": lambda: pitch_shift(audio, of["cents"], 22_050, 700.0),
        "reverb": lambda: reverb(audio, of["reverberance"], of["damping"], of["room_scale"], 22_050),
    }[name]()


def test_the_chain_is_its_functions_in_the_order_of_the_configuration(run, noise_clips, make_seeds):
    """Applied to given parameters, so that compiled and interpreted code must agree as well."""
    released_order = AugmentationChain(BUSY)
    reverse_order = AugmentationChain(dataclasses.replace(BUSY, order=AUGMENTATION_NAMES[::-1]))
    draws = released_order.draw(make_seeds(8))
    for chain in (released_order, reverse_order):
        views = run(lambda audio, chain=chain: chain.apply(audio, draws), noise_clips)
        assert views.dtype == np.float32
        expected = noise_clips
        for name in chain.config.order:
            changed = transformed(name, expected, draws[name])
            expected = np.where(draws[name]["applied"].numpy()[:, None], changed, expected)
        # Compiled noise is other noise; its rows are compared in test_noise.py.
        exact = ~draws["noise"]["applied"].numpy()
        assert exact.any()
        np.testing.assert_allclose(views[exact], expected[exact], rtol=1e-4, atol=5e-5 * np.abs(expected).max())
        np.testing.assert_allclose(views.std(axis=1), expected.std(axis=1), rtol=1e-3)


def test_noise_before_the_delay_is_heard_twice_and_noise_after_it_once(make_seeds):
    config = dataclasses.replace(
        augmentation_preset("none"),
        noise=NoiseConfig(1.0, Range(0.1, 0.1)),
        delay=DelayConfig(1.0, Range(200, 200), volume=1.0),
    )
    tone = np.sin(np.arange(60_000) * 0.2, dtype=np.float32)[None]
    clean = AugmentationChain(dataclasses.replace(config, noise=NoiseConfig(0.0)))(tone, make_seeds(1))
    for order, expected in ((AUGMENTATION_NAMES, 0.5), (AUGMENTATION_NAMES[::-1], 0.0)):
        view = AugmentationChain(dataclasses.replace(config, order=order))(tone, make_seeds(1))
        noise = (view - clean).numpy()[0, 4410:]
        repetition = np.mean(noise[4410:] * noise[:-4410]) / np.mean(np.square(noise))
        assert repetition == pytest.approx(expected, abs=0.03)


def test_compiled_draws_have_the_same_statistics(make_seeds):
    chain = AugmentationChain(BUSY)
    draws = tf.function(chain.draw, jit_compile=True)(tf.constant(make_seeds(NUM_VIEWS)))
    for name in AUGMENTATION_NAMES:
        assert abs(draws[name]["applied"].numpy().mean() - 0.5) < 3 * 0.5 / np.sqrt(NUM_VIEWS)
    gain_db = np.sort(draws["gain"]["gain_db"].numpy())
    np.testing.assert_allclose(gain_db, np.linspace(-20, -1, NUM_VIEWS), atol=0.03 * 19)


def test_examples_that_are_not_chosen_come_back_bit_for_bit(run, make_seeds):
    """Minus zero, the smallest and the largest floats would show any arithmetic."""
    special = np.array([-0.0, 0.0, 1e-45, -1e-38, 3e38, -3e38, 0.5, 1.0], np.float32)
    clips = np.tile(special, [600, 2])
    chain, seeds = AugmentationChain(CHEAP), make_seeds(600)
    views, applied = run(lambda *arguments: (chain(*arguments), draw_applied(chain, arguments[1])), clips, seeds)
    untouched = ~np.any(applied, axis=0)
    assert 15 <= untouched.sum() <= 70  # 600 / 2^4 are expected
    np.testing.assert_array_equal(bits(views[untouched]), bits(clips[untouched]))
    assert np.all(np.any(bits(views[~untouched]) != bits(clips[~untouched]), axis=1))


def test_examples_without_the_expensive_parts_come_back_bit_for_bit(run, noise_clips, make_seeds):
    chain = AugmentationChain(dataclasses.replace(BUSY, noise=NoiseConfig(0.0), gain=GainConfig(0.0)))
    clips, seeds = np.tile(noise_clips, [12, 1]), make_seeds(96)
    views, applied = run(lambda *arguments: (chain(*arguments), draw_applied(chain, arguments[1])), clips, seeds)
    untouched = ~np.any(applied, axis=0)
    assert untouched.sum() >= 1  # 96 / 2^5 are expected
    np.testing.assert_array_equal(bits(views[untouched]), bits(clips[untouched]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_clip_that_is_not_finite_is_reported(noise_clips, make_seeds, value):
    clips = noise_clips.copy()
    clips[3, 1000] = value
    for chain in (AugmentationChain(BUSY), tf.function(AugmentationChain(BUSY))):
        with pytest.raises(tf.errors.InvalidArgumentError, match="A clip to be augmented holds NaN or infinity"):
            chain(clips, make_seeds(8))


def test_compiled_a_clip_that_is_not_finite_spoils_no_other(noise_clips, make_seeds):
    always = AugmentationConfig(
        *(dataclasses.replace(getattr(BUSY, name), probability=1.0) for name in AUGMENTATION_NAMES)
    )
    chain = tf.function(AugmentationChain(always), jit_compile=True)
    clips = noise_clips.copy()
    clips[3, 1000] = np.nan
    views, expected = (chain(audio, make_seeds(8)).numpy() for audio in (clips, noise_clips))
    others = np.arange(8) != 3
    np.testing.assert_array_equal(views[others], expected[others])


def test_awkward_audio_stays_finite(run, awkward_audio, make_seeds):
    always = AugmentationConfig(
        *(dataclasses.replace(getattr(BUSY, name), probability=1.0) for name in AUGMENTATION_NAMES)
    )
    views = run(AugmentationChain(always), awkward_audio, make_seeds(2))
    assert np.isfinite(views).all()
    assert np.abs(views).max() < 4


def draw_applied(chain, seeds):
    return tf.stack([parameters["applied"] for parameters in chain.draw(seeds).values()])


def test_probability_zero_is_the_input_and_adds_no_op(noise_clips, make_seeds):
    chain = AugmentationChain(augmentation_preset("none"))
    assert chain.augmentations == ()
    assert chain.draw(make_seeds(8)) == {}
    np.testing.assert_array_equal(bits(chain(noise_clips, make_seeds(8))), bits(noise_clips))
    graph = tf.function(chain).get_concrete_function(noise_clips, make_seeds(8)).graph
    assert {operation.type for operation in graph.get_operations()} == {"Placeholder", "Identity"}


def test_one_left_out_leaves_no_trace_in_the_graph(noise_clips, make_seeds):
    def operation_types(config):
        function = tf.function(AugmentationChain(config))
        graph = function.get_concrete_function(noise_clips, make_seeds(8)).graph
        return {operation.type for operation in graph.get_operations()}

    assert "Pow" in operation_types(BUSY)
    assert "Pow" not in operation_types(dataclasses.replace(BUSY, gain=GainConfig(0.0)))


def test_static_shape_is_kept(make_seeds):
    @tf.function(input_signature=[tf.TensorSpec([None, 9_000], tf.float32), tf.TensorSpec([None, 2], tf.int32)])
    def make_views(audio, seeds):
        views = AugmentationChain(BUSY)(audio, seeds)
        assert views.shape.as_list() == [None, 9_000]
        fixed = AugmentationChain(BUSY)(tf.ensure_shape(audio, [6, 9_000]), tf.ensure_shape(seeds, [6, 2]))
        assert fixed.shape.as_list() == [6, 9_000]
        return views

    assert make_views(np.zeros([6, 9_000], np.float32), make_seeds(6)).shape == [6, 9_000]


def test_the_dtype_policy_changes_nothing(noise_clips, make_seeds):
    chain, seeds = AugmentationChain(BUSY), make_seeds(8)
    expected = chain(noise_clips, seeds)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        views = tf.function(AugmentationChain(BUSY))(noise_clips, seeds)
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


def test_asymmetric_views_are_the_crop_alone(run, noise_clips, make_seeds):
    chain = AugmentationChain(augmentation_preset("only-polarity"))
    first_views = np.arange(8) % 2 == 0
    views = run(chain, noise_clips, make_seeds(8), first_views)
    np.testing.assert_array_equal(views[first_views], -noise_clips[first_views])
    np.testing.assert_array_equal(bits(views[~first_views]), bits(noise_clips[~first_views]))
    draws = chain.draw(make_seeds(8), first_views)
    np.testing.assert_array_equal(draws["polarity"]["applied"], first_views)


def test_an_asymmetric_chain_must_be_told_the_first_views(noise_clips, make_seeds):
    with pytest.raises(UsageError, match="needs `augmented`"):
        AugmentationChain(augmentation_preset("only-gain"))(noise_clips, make_seeds(8))


def test_seeds_of_another_batch_are_refused(noise_clips, make_seeds):
    with pytest.raises(UsageError, match="seeds must have one row for each of the 8 clips; received 1"):
        AugmentationChain(BUSY)(noise_clips, make_seeds(1))
