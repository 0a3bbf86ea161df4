"""Truncated, changed or incomplete checkpoints are found by their checksums, reported and skipped."""

import shutil

import pytest

from clmr_tf.errors import ClmrError
from clmr_tf.train.checkpoints import Checkpoints, find_damage, restore_newest
from tests.clmr_tf.train.saved_variables import make_groups, names_in, save_steps, step_in

FILES = ("checksums.json", "state.data-00000-of-00001", "state.index")
DAMAGES = {
    "cut to nothing": (lambda data: b"", "truncated"),
    "cut in the middle": (lambda data: data[: len(data) // 2], "truncated"),
    "without its last byte": (lambda data: data[:-1], "truncated"),
    "first bit": (lambda data: flipped(data, 0), "changed"),
    "a bit in the middle": (lambda data: flipped(data, 4 * len(data)), "changed"),
    "last bit": (lambda data: flipped(data, 8 * len(data) - 1), "changed"),
    "longer": (lambda data: data + b"\0", "changed"),
    "other content of the same size": (lambda data: bytes(len(data)), "changed"),
}


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save_steps(folder, 5, 6)
    return folder


@pytest.fixture
def folder(two_saved, tmp_path):
    return shutil.copytree(two_saved, tmp_path / "checkpoints")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_restore_falls_back_to_previous_if_newest_is_damaged(folder, caplog, name, damage):
    change, words = DAMAGES[damage]
    file = folder / "step-000000006" / name
    file.write_bytes(change(file.read_bytes()))
    for restore in (
        Checkpoints(folder, groups := make_groups(), keep=2).restore,
        lambda: restore_newest(folder, groups),
    ):
        caplog.clear()
        assert restore() == step_in(groups) == 5
        # TensorFlow may log about checkpoints of other tests that are being deleted.
        (record,) = [record for record in caplog.records if record.name == "clmr_tf.train.checkpoints"]
        assert record.levelname == "WARNING" and str(file.parent) in record.getMessage()
        # The checksum file does not record its own size, so any damage counts as a change.
        words = words if name != "checksums.json" else "changed"
        assert f"({name} " in record.getMessage() and words in record.getMessage()
    assert names_in(folder) == ["step-000000005", "step-000000006"]


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named_in_warning(folder, caplog, name):
    (folder / "step-000000006" / name).unlink()
    groups = make_groups()
    assert Checkpoints(folder, groups, keep=2).restore() == step_in(groups) == 5
    assert f"step-000000006 is damaged ({name} is missing)" in caplog.text


def test_unreadable_file_is_named_in_warning(folder, caplog):
    # A symbolic link to itself cannot be read even by root.
    (folder / "step-000000006" / "state.index").unlink()
    (folder / "step-000000006" / "state.index").symlink_to("state.index")
    assert restore_newest(folder, make_groups()) == 5
    assert "state.index cannot be read (Too many levels of symbolic links)" in caplog.text


def test_every_single_flipped_bit_is_detected(folder):
    path = folder / "step-000000006"
    assert find_damage(path) is None
    for name in ("checksums.json", "state.index"):
        data = (path / name).read_bytes()
        for bit in range(8 * len(data)):
            (path / name).write_bytes(flipped(data, bit))
            assert str(find_damage(path)).startswith(name), bit
        (path / name).write_bytes(data)
    assert find_damage(path) is None


def test_renamed_checkpoint_is_not_restored(folder):
    shutil.copytree(folder / "step-000000006", folder / "step-000000009")
    groups = make_groups()
    assert restore_newest(folder, groups) == step_in(groups) == 6


def test_restore_fails_if_all_checkpoints_are_damaged(folder):
    for name in ("step-000000005", "step-000000006"):
        (folder / name / "state.index").write_bytes(b"")
    with pytest.raises(ClmrError, match=r"None of the 2 checkpoints in .* can be restored; restore a copy"):
        Checkpoints(folder, make_groups(), keep=1).restore()
    assert names_in(folder) == ["step-000000005", "step-000000006"]


@pytest.mark.parametrize(("keep", "kept"), [(1, [11]), (2, [10, 11]), (3, [10, 11])])
def test_damaged_checkpoints_are_not_counted_and_removed_on_next_save(tmp_path, keep, kept):
    """Damaged checkpoints that are newer than the next save must not push out good ones."""
    save_steps(tmp_path, 10, 12, 14)
    for name in ("step-000000012", "step-000000014"):
        (tmp_path / name / "state.index").unlink()
    save_steps(tmp_path, 11, keep=keep)
    assert names_in(tmp_path) == [f"step-{step:09d}" for step in kept]


def test_saving_the_step_again_replaces_a_damaged_checkpoint(folder):
    (folder / "step-000000006" / "state.index").unlink()
    save_steps(folder, 6)
    assert names_in(folder) == ["step-000000005", "step-000000006"]
    assert restore_newest(folder, make_groups()) == 6


def test_save_succeeds_if_a_damaged_checkpoint_was_removed_meanwhile(folder):
    (folder / "step-000000006" / "state.index").unlink()
    groups = make_groups()
    checkpoints = Checkpoints(folder, groups, keep=2)
    assert checkpoints.restore() == 5
    shutil.rmtree(folder / "step-000000006")
    checkpoints.save(7)
    assert names_in(folder) == ["step-000000005", "step-000000007"]
