"""The chain: what it draws, and that a view depends on its clip and its seeds alone."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import AugmentationChain, add_noise, delay, gain, highpass, lowpass, pitch_shift, polarity, reverb
from clmr_tf.config.augmentation import (
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


@pytest.fixture(scope="module")
def clips():
    """Enough rows for vectorised arithmetic, with some left over at the end: float32 [19, 6000]."""
    return np.random.default_rng(9).standard_normal([19, 6_000]).astype(np.float32) / 10


@pytest.fixture(scope="module")
def make_views():
    """One traced function for all batch sizes."""
    signature = [tf.TensorSpec([None, 6_000]), tf.TensorSpec([None, 2], tf.int32)]
    return tf.function(AugmentationChain(BUSY), input_signature=signature)


# === Draw ===


def draw_applied(chain, seeds):
    return {name: parameters["applied"].numpy() for name, parameters in tf.function(chain.draw)(seeds).items()}


def test_each_augmentation_is_applied_with_its_probability(make_seeds):
    config = AugmentationConfig()
    applied = draw_applied(AugmentationChain(config), make_seeds(NUM_VIEWS))
    assert tuple(applied) == AUGMENTATION_NAMES
    for name, rows in applied.items():
        probability = getattr(config, name).probability
        sigma = np.sqrt(NUM_VIEWS * probability * (1 - probability))
        assert abs(rows.sum() - NUM_VIEWS * probability) < 3 * sigma, name


def test_draws_are_independent_between_augmentations_views_and_steps(make_seeds):
    chain = AugmentationChain(BUSY)
    first, second = (draw_applied(chain, make_seeds(NUM_VIEWS, stream)) for stream in (1, 2))
    columns = [*first.values(), *second.values()]
    columns += [np.roll(rows, shift) for rows in first.values() for shift in (1, 2)]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(NUM_VIEWS)


def test_drawn_parameters_fill_their_ranges_evenly(make_seeds):
    draws = tf.function(AugmentationChain(AugmentationConfig()).draw)(make_seeds(NUM_VIEWS))
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
    for rows, low, high in ((is_lowpass, 2200, 4000), (~is_lowpass, 200, 1200)):
        np.testing.assert_allclose(np.quantile((cutoff_hz[rows] - low) / (high - low), quantiles), quantiles, atol=0.04)
    delays_ms, counts = np.unique(draws["delay"]["delay_ms"], return_counts=True)
    np.testing.assert_array_equal(delays_ms, [200, 250, 300, 350, 400, 450])
    assert np.abs(counts - NUM_VIEWS / 6).max() < 3.5 * np.sqrt(NUM_VIEWS * 5 / 36)
    np.testing.assert_array_equal(draws["delay"]["volume"], np.full(NUM_VIEWS, 0.5, np.float32))
    # Whether it is applied and how strongly are independent.
    applied, gain_db = draws["gain"]["applied"].numpy(), draws["gain"]["gain_db"].numpy()
    assert abs(gain_db[applied].mean() - gain_db[~applied].mean()) < 4 * 5.5 / np.sqrt(0.21 * NUM_VIEWS)


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


def test_draws_compiled_by_xla_have_the_same_distributions(make_seeds):
    draws = tf.function(AugmentationChain(BUSY).draw, jit_compile=True)(make_seeds(NUM_VIEWS))
    for name in AUGMENTATION_NAMES:
        assert abs(draws[name]["applied"].numpy().mean() - 0.5) < 3 * 0.5 / np.sqrt(NUM_VIEWS)
    gain_db = np.sort(draws["gain"]["gain_db"].numpy())
    np.testing.assert_allclose(gain_db, np.linspace(-20, -1, NUM_VIEWS), atol=0.03 * 19)


# === A view depends on its clip and its seeds alone ===


def test_views_depend_neither_on_their_place_nor_on_the_batch_size(make_views, clips, make_seeds):
    seeds = make_seeds(19)
    together = make_views(clips, seeds).numpy()
    assert np.sum(np.any(together != clips, axis=1)) > 15
    np.testing.assert_array_equal(bits(make_views(clips[::-1], seeds[::-1]))[::-1], bits(together))
    for size, firsts in ((1, range(8)), (7, (0, 7, 14))):
        for first in firsts:
            rows = slice(first, first + size)
            np.testing.assert_array_equal(bits(make_views(clips[rows], seeds[rows])), bits(together[rows]))


def test_eager_function_and_dataset_give_the_same_bits(make_views, clips, make_seeds):
    seeds = make_seeds(19)
    expected = bits(make_views(clips, seeds))
    dataset = tf.data.Dataset.from_tensors((clips, seeds)).map(make_views, num_parallel_calls=2)
    np.testing.assert_array_equal(bits(dataset.get_single_element()), expected)
    np.testing.assert_array_equal(bits(AugmentationChain(BUSY)(clips, seeds)), expected)


@pytest.mark.soak
def test_compiled_by_xla_views_are_the_same_to_rounding_and_nan_stays_in_its_clip(clips, make_seeds):
    chain = AugmentationChain(BUSY)
    draws = chain.draw(make_seeds(19))
    # With XLA the noise has other values.
    draws["noise"]["applied"] = tf.zeros([19], tf.bool)
    compiled = tf.function(chain.apply, jit_compile=True)
    views, expected = compiled(clips, draws).numpy(), chain.apply(clips, draws)
    errors = np.linalg.norm(views - expected, axis=1) / np.linalg.norm(expected, axis=1)
    # Sums in another order: -60 dB.
    assert errors.max() < 1e-3
    broken = clips.copy()
    broken[3, 1000] = np.nan
    others = np.arange(19) != 3
    np.testing.assert_array_equal(bits(compiled(broken, draws))[others], bits(views)[others])
    in_reverse = tf.nest.map_structure(lambda values: values[::-1], draws)
    np.testing.assert_array_equal(bits(compiled(clips[::-1], in_reverse))[::-1], bits(views))
    alone = tf.nest.map_structure(lambda values: values[4:5], draws)
    np.testing.assert_array_equal(bits(compiled(clips[4:5], alone))[0], bits(views[4]))


def test_with_a_gpu_whole_batches_are_computed_with_the_same_result(make_views, clips, make_seeds, monkeypatch):
    expected = make_views(clips, make_seeds(19)).numpy()

    def no_loop(*_arguments, **_settings):
        raise AssertionError("A loop over chunks of rows")

    devices = [*tf.config.list_logical_devices("CPU"), SimpleNamespace(device_type="GPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: devices)
    monkeypatch.setattr("clmr_tf.augment.effect.transform_selected", no_loop)
    views = AugmentationChain(BUSY)(clips, make_seeds(19)).numpy()
    # Sums over batches of another size round differently on some processors.
    np.testing.assert_allclose(views, expected, rtol=0, atol=2e-6)


def test_the_dtype_policy_changes_nothing(make_views, clips, make_seeds):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        views = AugmentationChain(BUSY)(clips, make_seeds(19))
    finally:
        keras.config.set_dtype_policy(policy)
    np.testing.assert_array_equal(bits(views), bits(make_views(clips, make_seeds(19))))


# === Apply ===


def transform(name, audio, of):
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


@pytest.mark.parametrize("order", [AUGMENTATION_NAMES, AUGMENTATION_NAMES[::-1]], ids=["released", "reverse"])
def test_the_chain_is_its_functions_in_the_order_of_the_configuration(clips, make_seeds, order):
    clips = clips[:8]
    chain = AugmentationChain(dataclasses.replace(BUSY, order=order))
    draws = chain.draw(make_seeds(8))
    views, expected = chain.apply(clips, draws).numpy(), clips
    for name in order:
        expected = np.where(draws[name]["applied"].numpy()[:, None], transform(name, expected, draws[name]), expected)
    np.testing.assert_allclose(views, expected, rtol=1e-4, atol=5e-5 * np.abs(expected).max())


def test_noise_before_the_delay_is_repeated_and_noise_after_it_is_not(make_seeds):
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


def test_rows_that_are_not_augmented_are_returned_bit_for_bit(make_seeds):
    """Minus zero, the smallest and the largest floats would reveal any arithmetic."""
    special = np.array([-0.0, 0.0, 1e-45, -1e-38, 3e38, -3e38, 0.5, 1.0], np.float32)
    clips, seeds = np.tile(special, [600, 2]), make_seeds(600)
    chain = AugmentationChain(CHEAP)
    views = tf.function(chain)(clips, seeds).numpy()
    untouched = ~np.any(list(draw_applied(chain, seeds).values()), axis=0)
    assert 15 <= untouched.sum() <= 70  # 600 / 2^4 are expected
    np.testing.assert_array_equal(bits(views[untouched]), bits(clips[untouched]))
    assert np.all(np.any(bits(views[~untouched]) != bits(clips[~untouched]), axis=1))


def test_probability_zero_is_the_input_and_adds_no_op(clips, make_seeds):
    chain = AugmentationChain(augmentation_preset("none"))
    assert chain.augmentations == () and chain.draw(make_seeds(19)) == {}
    np.testing.assert_array_equal(bits(chain(clips, make_seeds(19))), bits(clips))
    graph = tf.function(chain).get_concrete_function(clips, make_seeds(19)).graph
    assert {operation.type for operation in graph.get_operations()} == {"Placeholder", "Identity"}


def test_asymmetric_views_are_the_crop_itself(clips, make_seeds):
    chain, seeds = AugmentationChain(augmentation_preset("only-polarity")), make_seeds(19)
    first_views = np.arange(19) % 2 == 0
    views = chain(clips, seeds, first_views).numpy()
    np.testing.assert_array_equal(bits(views), bits(np.where(first_views[:, None], -clips, clips)))
    np.testing.assert_array_equal(chain.draw(seeds, first_views)["polarity"]["applied"], first_views)


def test_the_sample_rate_sets_the_delay_in_samples(make_seeds):
    config = dataclasses.replace(augmentation_preset("none"), delay=DelayConfig(1.0, Range(200, 200)))
    impulse = np.zeros([1, 6_000], np.float32)
    impulse[0, 0] = 1
    for rate, offset in ((22_050, 4410), (16_000, 3200), (8_000, 1600)):
        view = AugmentationChain(config, sample_rate_hz=rate)(impulse, make_seeds(1)).numpy()[0]
        np.testing.assert_array_equal(np.nonzero(view)[0], [0, offset])


def test_awkward_audio_stays_finite(awkward_audio, make_seeds):
    always = (dataclasses.replace(getattr(BUSY, name), probability=1.0) for name in AUGMENTATION_NAMES)
    views = AugmentationChain(AugmentationConfig(*always))(awkward_audio, make_seeds(8)).numpy()
    assert np.isfinite(views).all() and np.abs(views).max() < 4
    np.testing.assert_array_equal(views.any(axis=1), awkward_audio.any(axis=1))


# === Arguments ===


def test_static_shapes_are_kept_and_a_batch_may_be_empty_at_run_time(make_views):
    assert make_views.get_concrete_function().output_shapes.as_list() == [None, 6_000]
    assert make_views(np.zeros([0, 6_000], np.float32), np.zeros([0, 2], np.int32)).shape == (0, 6_000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_clip_that_is_not_finite_is_reported(make_views, clips, make_seeds, value):
    broken = clips.copy()
    broken[3, 1000] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match="A clip to be augmented contains NaN or infinity"):
        make_views(broken, make_seeds(19))


def test_seeds_of_another_batch_size_are_rejected(clips, make_seeds):
    with pytest.raises(UsageError, match="seeds must have one row for each of the 19 clips; received 1"):
        AugmentationChain(BUSY)(clips, make_seeds(1))


@pytest.mark.parametrize(
    ("augmented", "words"),
    [
        (None, "An asymmetric chain needs `augmented`"),
        ([True, False, True], "augmented must have one row for each of the 19 clips; received 3"),
        (True, r"augmented must be bool \[batch\], False .*; received bool \(\)"),
        (np.ones([19, 1], bool), r"augmented must be bool \[batch\], .*; received bool \(19, 1\)"),
        ([1] * 19, r"augmented must be bool \[batch\], .*; received int32 \(19,\)"),
    ],
)
def test_an_asymmetric_chain_needs_a_mask_of_the_first_views(clips, make_seeds, augmented, words):
    with pytest.raises(UsageError, match=words):
        AugmentationChain(augmentation_preset("only-polarity"))(clips, make_seeds(19), augmented)
