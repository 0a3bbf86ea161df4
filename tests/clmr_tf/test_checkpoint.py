"""Checkpoints on disk: complete, few, and refused when damaged."""

import keras
import numpy as np
import pytest

from clmr_tf.checkpoint import Checkpoints, named_variables
from clmr_tf.errors import ClmrError
from clmr_tf.models.batch_normalization import BatchNormalization1D


class Normalized(keras.Model):
    """Layers in a list, one of them with running statistics, as in SampleCNN."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.parts = [keras.layers.Dense(units, name="dense"), BatchNormalization1D(name="normalization")]

    def call(self, inputs, training=False):
        return self.parts[1](self.parts[0](inputs)[:, None], training=training)


def make_model(units: int = 3) -> keras.Model:
    model = Normalized(units)
    model(np.zeros((1, 4), np.float32))
    model.compile(optimizer=keras.optimizers.Adam(0.1))
    model.optimizer.build(model.trainable_variables)
    return model


def make_checkpoints(folder, model, keep=2) -> Checkpoints:
    return Checkpoints(folder, {"model": model}, model.optimizer, keep)


def learn(model: keras.Model) -> None:
    model(np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32), training=True)
    model.optimizer.apply([0.5 * np.ones(v.shape, np.float32) for v in model.trainable_variables])


def test_an_empty_folder_starts_at_step_0(tmp_path):
    assert make_checkpoints(tmp_path / "none", make_model()).restore() == 0


def test_restores_weights_statistics_slots_and_step(tmp_path):
    model = make_model()
    learn(model)
    assert np.abs(model.parts[1].moving_mean.numpy()).min() > 0
    make_checkpoints(tmp_path, model).save(7)
    other = make_model()
    assert make_checkpoints(tmp_path, other).restore() == 7
    for one, two in zip(
        model.variables + model.optimizer.variables, other.variables + other.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(one.numpy(), two.numpy())
    learn(model)
    learn(other)
    for one, two in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


def test_keeps_the_newest_few_also_across_restarts(tmp_path):
    model = make_model()
    checkpoints = make_checkpoints(tmp_path, model)
    for step in (1, 2, 3):
        checkpoints.save(step)
    again = make_checkpoints(tmp_path, model)
    again.restore()
    again.save(4)
    assert sorted(path.name for path in tmp_path.glob("*.index")) == ["ckpt-3.index", "ckpt-4.index"]


def test_what_a_kill_while_saving_leaves_is_not_taken_for_a_checkpoint(tmp_path):
    model = make_model()
    make_checkpoints(tmp_path, model).save(5)
    data = next(tmp_path.glob("ckpt-5.data*")).read_bytes()
    (tmp_path / "ckpt-6_temp").mkdir()
    (tmp_path / "ckpt-6_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(data[: len(data) // 2])
    (tmp_path / "ckpt-6.data-00000-of-00001").write_bytes(data[: len(data) // 2])
    assert make_checkpoints(tmp_path, make_model()).restore() == 5
    assert not (tmp_path / "ckpt-6_temp").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, damage):
    model = make_model()
    checkpoints = make_checkpoints(tmp_path, model)
    learn(model)
    checkpoints.save(5)
    expected = [variable.numpy() for variable in model.variables]
    learn(model)
    checkpoints.save(6)
    path = next(tmp_path.glob("ckpt-6.data*"))
    data = bytearray(path.read_bytes())
    data[8] ^= 1
    path.write_bytes(data[:10] if damage == "cut" else data)
    other = make_model()
    assert make_checkpoints(tmp_path, other).restore() == 5
    assert "ckpt-6 cannot be restored" in caplog.text
    for variable, value in zip(other.variables, expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_checkpoints_of_another_model_are_refused(tmp_path):
    make_checkpoints(tmp_path, make_model(3)).save(5)
    with pytest.raises(ClmrError, match="None of the 1 checkpoints"):
        make_checkpoints(tmp_path, make_model(5)).restore()


def test_a_save_that_fails_names_the_checkpoint_that_is_still_good(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoints = make_checkpoints(folder, make_model())
    checkpoints.save(5)
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A folder in the way of the data file stands for a disk that refuses it (the tests run as root, too).
    (folder / "ckpt-6.data-00000-of-00001").mkdir()
    with pytest.raises(ClmrError, match=r"step 6 could not be written.*ckpt-5"):
        checkpoints.save(6)
    assert {name: (folder / name).read_bytes() for name in good} == good
    assert make_checkpoints(folder, make_model()).restore() == 5


def test_names_that_would_overwrite_each_other_are_refused():
    layers = [keras.layers.Dense(2, name="same") for _ in range(2)]
    for layer in layers:
        layer.build((None, 3))
    with pytest.raises(ValueError, match="same/kernel"):
        named_variables([*layers[0].variables, *layers[1].variables])
