"""What all encoders have in common, and how they are chosen by name."""

import itertools
import typing

import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.config.train import TrainConfig
from clmr_tf.models.encoders import ENCODERS, architecture_of, build_encoder, encoder_name
from clmr_tf.train.checkpoints import named_variables
from clmr_tf.train.distribution import build_strategy


@pytest.fixture(scope="module", params=list(ENCODERS))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def encoder(name):
    return build_encoder(name, width=0.0625, seed=3)


def test_the_configuration_has_the_same_names():
    assert typing.get_args(typing.get_type_hints(TrainConfig)["encoder"]) == tuple(ENCODERS)
    assert encoder_name(build_encoder()) == TrainConfig().encoder == "sample_cnn"


def test_an_unknown_name_is_one_sentence():
    with pytest.raises(ValueError, match=r"^There is no encoder 'melcnn'; did you mean `mel_cnn`\?$"):
        build_encoder("melcnn")
    with pytest.raises(ValueError, match=r"no encoder 'resnet'; the encoders are sample_cnn, mel_cnn, tune, tail\.$"):
        build_encoder("resnet")


def test_an_architecture_builds_the_same_network(name, encoder):
    architecture = architecture_of(encoder)
    again = build_encoder(**architecture)
    assert encoder_name(again) == name
    assert [variable.path.split("/")[-2:] for variable in again.variables] == [
        variable.path.split("/")[-2:] for variable in encoder.variables
    ]
    # Folders written before there was a choice have no name, and still mean SampleCNN.
    assert ("encoder" in architecture) == (name != "sample_cnn")


def test_initial_weights_are_he_uniform_and_depend_on_the_seed(name):
    first, again, other = (build_encoder(name, width=0.25, seed=seed) for seed in (3, 3, 4))
    for variable, same, different in zip(first.variables, again.variables, other.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), same.numpy())
        if variable.name == "kernel":
            # All dimensions but the last are inputs of an output.
            limit = np.sqrt(6 / np.prod(variable.shape[:-1]))
            assert np.abs(variable.numpy()).max() <= limit
            if np.prod(variable.shape) > 1000:
                assert np.std(variable) == pytest.approx(limit / np.sqrt(3), rel=0.1)
            assert np.abs(variable.numpy() - different.numpy()).max() > 0.1 * limit
    large = [
        kernel.numpy().ravel() for kernel in first.variables if kernel.name == "kernel" and np.prod(kernel.shape) > 1000
    ]
    for one, two in itertools.combinations(large, 2):
        assert one.shape != two.shape or abs(np.corrcoef(one, two)[0, 1]) < 0.15


def test_checkpoints_can_name_all_variables(name, encoder):
    # Of two models in a process, Keras names the second differently.
    other = build_encoder(name, width=0.0625)
    assert named_variables(other.variables).keys() == named_variables(encoder.variables).keys()
    assert len(named_variables(encoder.variables)) == len(encoder.variables)


def test_takes_a_channel_axis_mixes_no_examples_and_refuses_other_lengths(encoder):
    audio = np.random.default_rng(1).uniform(-0.9, 0.9, (3, 59049)).astype(np.float32)
    together = encoder(audio).numpy()
    assert together.std() > 0.01
    np.testing.assert_allclose(encoder(audio[..., None]).numpy(), together, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoder(audio[1:2]).numpy(), together[1:2], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"59049 samples.*Received: 59050"):
        encoder(np.zeros((1, 59050), np.float32))


def test_the_normalisations_of_an_image_are_those_of_all_replicas():
    audio = np.random.default_rng(1).uniform(-0.9, 0.9, (4, 20736)).astype(np.float32)
    audio *= np.array([0.1, 0.3, 0.6, 1.0], np.float32)[:, np.newaxis]
    single = build_encoder("mel_cnn", width=0.0625, sample_rate_hz=8000, seed=3)
    expected = single(audio, training=True).numpy()
    strategy = build_strategy("mirrored", 2)
    with strategy.scope():
        encoder = build_encoder("mel_cnn", width=0.0625, sample_rate_hz=8000, seed=3)

    def in_replica() -> tf.Tensor:
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        return encoder(tf.gather(tf.reshape(audio, [2, 2, -1]), index), training=True)

    halves = strategy.experimental_local_results(tf.function(lambda: strategy.run(in_replica))())
    received = np.concatenate([half.numpy() for half in halves])
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    for one, other in zip(encoder.non_trainable_variables, single.non_trainable_variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-5)
