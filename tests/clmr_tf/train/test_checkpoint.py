"""Checkpoints on disk: their content, how many are kept, and what is restored."""

import hashlib
import json
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from clmr_tf.errors import ClmrError
from clmr_tf.models.layers import BatchNormalization1D
from clmr_tf.train.checkpoints import Checkpoints, named_variables, restore_newest
from tests.clmr_tf.train.saved_variables import make_groups, names_in, save_steps, set_step, step_in


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


def make_checkpoints(folder, model) -> Checkpoints:
    slots = {str(index): variable.value for index, variable in enumerate(model.optimizer.variables)}
    return Checkpoints(folder, {"model": named_variables(model.variables), "optimizer": slots}, keep=2)


def learn(model: keras.Model) -> None:
    model(np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32), training=True)
    model.optimizer.apply([0.5 * np.ones(v.shape, np.float32) for v in model.trainable_variables])


def test_empty_folder_restores_step_0_and_reads_none(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert Checkpoints(folder, make_groups(), keep=2).restore() == 0
        assert restore_newest(folder, make_groups()) is None
    assert names_in(tmp_path) == []


def test_restore_covers_weights_statistics_slots_and_step(tmp_path):
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


def test_checkpoint_records_sizes_and_checksums_of_its_files(tmp_path):
    folder = tmp_path / "checkpoints"
    save_steps(folder, 500)
    assert names_in(folder) == ["step-000000500"]
    path = folder / "step-000000500"
    names = ["state.data-00000-of-00001", "state.index"]
    assert names_in(path) == ["checksums.json", *names]
    record = json.loads((path / "checksums.json").read_text())
    assert len(record.pop("own_sha256")) == 64
    assert record == {
        "format_version": 1,
        "step": 500,
        "files": {
            name: {
                "num_bytes": (path / name).stat().st_size,
                "sha256": hashlib.sha256((path / name).read_bytes()).hexdigest(),
            }
            for name in names
        },
    }


def test_newest_checkpoints_are_kept_across_restarts(tmp_path):
    save_steps(tmp_path, 1, 2, 3, keep=2)
    save_steps(tmp_path, 4, keep=2)
    assert names_in(tmp_path) == ["step-000000003", "step-000000004"]
    save_steps(tmp_path, 1_000_000_000, keep=2)
    assert names_in(tmp_path) == ["step-000000004", "step-1000000000"]
    groups = make_groups()
    assert restore_newest(tmp_path, groups) == step_in(groups) == 1_000_000_000
    save_steps(tmp_path, 1_000_000_001, keep=1)
    assert names_in(tmp_path) == ["step-1000000001"]


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path):
    groups = save_steps(tmp_path, 5)
    set_step(groups, 55)
    Checkpoints(tmp_path, groups, keep=1).save(5)
    again = make_groups()
    assert restore_newest(tmp_path, again) == 5 and step_in(again) == 55
    assert names_in(tmp_path) == ["step-000000005"]


def test_leftovers_of_a_kill_are_ignored_and_removed_by_next_start(tmp_path):
    save_steps(tmp_path, 5, 6, 7, 8, keep=4)
    # Killed while writing; while replacing, before and after the new one was renamed; while removing.
    (tmp_path / "step-000000008").rename(tmp_path / ".step-000000008.draft")
    (tmp_path / "step-000000006").rename(tmp_path / ".step-000000006.removed")
    (tmp_path / "step-000000007").rename(tmp_path / ".step-000000007.previous")
    (tmp_path / ".step-000000005.previous").mkdir()
    remains = names_in(tmp_path)
    assert restore_newest(tmp_path, make_groups()) == 5
    assert Checkpoints(tmp_path, make_groups(), keep=3, writes=False).restore() == 5
    assert names_in(tmp_path) == remains
    groups = make_groups()
    assert Checkpoints(tmp_path, groups, keep=3).restore() == step_in(groups) == 7
    assert names_in(tmp_path) == ["step-000000005", "step-000000007"]


def test_one_group_of_variables_can_be_restored_alone(tmp_path):
    save_steps(tmp_path, 5)
    encoder = make_groups()["encoder"]
    assert restore_newest(tmp_path, {"encoder": encoder}) == 5
    assert [float(variable[-1]) for variable in encoder.values()] == [5.0] * 3


def test_checkpoints_of_another_model_are_rejected_and_kept(tmp_path):
    save_steps(tmp_path, 4, 5)
    other_shape = {"encoder": make_groups(num_values=7)["encoder"]}
    other_name = {"encoder": {"unheard_of": tf.Variable(0.0)}}
    for groups in (other_shape, other_name):
        with pytest.raises(ClmrError, match="step-000000005 does not fit the model"):
            Checkpoints(tmp_path, groups, keep=2).restore()
    assert names_in(tmp_path) == ["step-000000004", "step-000000005"]


def test_reader_uses_newer_checkpoint_if_one_is_removed_while_reading(tmp_path, monkeypatch, caplog):
    save_steps(tmp_path, 5, keep=1)

    def replace_and_find_damage(path):
        # As if training saved a new checkpoint and removed this one while it was being read.
        monkeypatch.undo()
        save_steps(tmp_path, 6, keep=1)

    monkeypatch.setattr("clmr_tf.train.checkpoints.find_damage", replace_and_find_damage)
    groups = make_groups()
    with caplog.at_level(logging.WARNING):
        assert restore_newest(tmp_path, groups) == step_in(groups) == 6
    assert caplog.text == ""


def test_duplicate_variable_names_are_rejected():
    layers = [keras.layers.Dense(2, name="same") for _ in range(2)]
    for layer in layers:
        layer.build((None, 3))
    with pytest.raises(ValueError, match="same/kernel"):
        named_variables([*layers[0].variables, *layers[1].variables])
