"""The chain: a view is its clip's and its seed's alone, and what is not chosen leaves no trace."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.augment import AugmentationChain, add_noise, delay, gain, highpass, lowpass, pitch_shift, polarity, reverb
from clmr_tf.config.augmentation import (
    AUGMENTATION_NAMES,
    DelayConfig,
    FilterConfig,
    GainConfig,
    NoiseConfig,
    PitchConfig,
    Range,
    ReverbConfig,
    augmentation_preset,
)
from tests.clmr_tf.augment.chains import BUSY, bits, draw_applied

CHEAP = dataclasses.replace(BUSY, filter=FilterConfig(0.0), pitch=PitchConfig(0.0), reverb=ReverbConfig(0.0))


@pytest.fixture
def many_clips():
    """39 short clips: enough rows for vectorised arithmetic, with some left over at the end."""
    return np.random.default_rng(9).standard_normal([39, 6_000]).astype(np.float32) / 10


# XLA compiles anew for every size of a batch, which takes seconds.
@pytest.mark.parametrize(("jit_compile", "sizes"), [(False, (1, 7)), (True, (1,))])
def test_a_view_depends_on_its_clip_and_seeds_alone(many_clips, make_seeds, jit_compile, sizes):
    signature = [tf.TensorSpec([None, 6_000]), tf.TensorSpec([None, 2], tf.int32)]
    chain = tf.function(AugmentationChain(BUSY), jit_compile=jit_compile, input_signature=signature)
    seeds = make_seeds(39)
    together = chain(many_clips, seeds).numpy()
    assert np.sum(np.any(together != many_clips, axis=1)) > 30
    np.testing.assert_array_equal(bits(chain(many_clips[::-1], seeds[::-1]))[::-1], bits(together))
    for size in sizes:
        for first in range(0, 39, size):
            rows = slice(first, first + size)
            np.testing.assert_array_equal(bits(chain(many_clips[rows], seeds[rows])), bits(together[rows]))


def test_beside_a_gpu_whole_batches_are_computed_and_sound_the_same(many_clips, make_seeds, monkeypatch):
    expected = AugmentationChain(BUSY)(many_clips, make_seeds(39)).numpy()

    def no_loop(*_arguments, **_settings):
        raise AssertionError("A loop over chunks of rows")

    devices = [*tf.config.list_logical_devices("CPU"), SimpleNamespace(device_type="GPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: devices)
    monkeypatch.setattr("clmr_tf.augment.augmentation.transform_chosen", no_loop)
    views = AugmentationChain(BUSY)(many_clips, make_seeds(39)).numpy()
    # Sums over batches of another size round differently on some processors.
    np.testing.assert_allclose(views, expected, rtol=0, atol=2e-6)


def test_eager_function_and_dataset_give_the_same_bits(many_clips, make_seeds):
    chain, seeds = AugmentationChain(BUSY), make_seeds(39)
    eager = chain(many_clips, seeds)
    dataset = tf.data.Dataset.from_tensors((many_clips, seeds)).map(chain, num_parallel_calls=2)
    np.testing.assert_array_equal(bits(tf.function(chain)(many_clips, seeds)), bits(eager))
    np.testing.assert_array_equal(bits(dataset.get_single_element()), bits(eager))


def test_compiled_with_xla_the_same_parameters_give_the_same_views(many_clips, make_seeds):
    chain = AugmentationChain(BUSY)
    draws = chain.draw(make_seeds(39))
    # Its normal numbers are others under XLA.
    draws["noise"]["applied"] = tf.zeros([39], tf.bool)
    expected = tf.function(chain.apply)(many_clips, draws)
    compiled = tf.function(chain.apply, jit_compile=True)(many_clips, draws)
    errors = np.linalg.norm(compiled - expected, axis=1) / np.linalg.norm(expected, axis=1)
    # Sums in another order: -60 dB.
    assert errors.max() < 1e-3


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


def assert_functions_in_order(chain, views, clips, draws):
    assert views.dtype == np.float32
    expected = clips
    for name in chain.config.order:
        changed = transformed(name, expected, draws[name])
        expected = np.where(draws[name]["applied"].numpy()[:, None], changed, expected)
    # Compiled noise is other noise; its rows are compared in test_noise.py.
    exact = ~draws["noise"]["applied"].numpy()
    assert exact.any()
    np.testing.assert_allclose(views[exact], expected[exact], rtol=1e-4, atol=5e-5 * np.abs(expected).max())
    np.testing.assert_allclose(views.std(axis=1), expected.std(axis=1), rtol=1e-3)


def test_the_chain_is_its_functions_in_the_released_order(run, noise_clips, make_seeds):
    """Applied to given parameters, so that compiled and interpreted code must agree as well."""
    chain = AugmentationChain(BUSY)
    draws = chain.draw(make_seeds(8))
    views = run(lambda audio: chain.apply(audio, draws), noise_clips)
    assert_functions_in_order(chain, views, noise_clips, draws)


def test_another_order_of_the_configuration_is_followed(noise_clips, make_seeds):
    chain = AugmentationChain(dataclasses.replace(BUSY, order=AUGMENTATION_NAMES[::-1]))
    draws = chain.draw(make_seeds(8))
    assert_functions_in_order(chain, chain.apply(noise_clips, draws).numpy(), noise_clips, draws)
    released = AugmentationChain(BUSY).apply(noise_clips, draws).numpy()
    with pytest.raises(AssertionError):
        assert_functions_in_order(chain, released, noise_clips, draws)


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
    clips, seeds = np.tile(noise_clips[:, :6_000], [12, 1]), make_seeds(96)
    views, applied = run(lambda *arguments: (chain(*arguments), draw_applied(chain, arguments[1])), clips, seeds)
    untouched = ~np.any(applied, axis=0)
    assert untouched.sum() >= 1  # 96 / 2^5 are expected
    np.testing.assert_array_equal(bits(views[untouched]), bits(clips[untouched]))


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


def test_asymmetric_views_are_the_crop_alone(run, noise_clips, make_seeds):
    chain = AugmentationChain(augmentation_preset("only-polarity"))
    first_views = np.arange(8) % 2 == 0
    views = run(chain, noise_clips, make_seeds(8), first_views)
    np.testing.assert_array_equal(views[first_views], -noise_clips[first_views])
    np.testing.assert_array_equal(bits(views[~first_views]), bits(noise_clips[~first_views]))
    draws = chain.draw(make_seeds(8), first_views)
    np.testing.assert_array_equal(draws["polarity"]["applied"], first_views)
