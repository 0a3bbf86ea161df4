"""Files and folders are synced before they are renamed, and permissions follow the umask."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.files import put_in_place, sync, write_atomically
from clmr_tf.probe import features as feature_cache
from tests.clmr_tf.probed import tiny_model, write_tiny_model


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        for content in ("new", "replaced"):
            write_atomically(tmp_path / "file", content)
            assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o666 & ~umask
    finally:
        os.umask(before)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Records syncs and renames in order, by names relative to `tmp_path`."""
    calls, sync, rename = [], os.fsync, Path.rename

    def name_of(path: Path) -> str:
        return re.sub(r"\.[0-9a-f]{8}$", ".draft", str(path.relative_to(tmp_path)))

    def noted_sync(handle):
        calls.append(f"sync {name_of(Path(f'/proc/self/fd/{handle}').readlink())}")
        sync(handle)

    def noted_rename(source, target):
        calls.append(f"rename {name_of(source)} to {name_of(target)}")
        return rename(source, target)

    monkeypatch.setattr("os.fsync", noted_sync)
    monkeypatch.setattr("pathlib.Path.rename", noted_rename)
    return calls


def test_file_is_synced_before_the_rename_and_its_folder_after(tmp_path, calls):
    write_atomically(tmp_path / "file", "new")
    assert calls == ["sync .file.draft", "rename .file.draft to file", "sync ."]


def test_folder_is_synced_with_its_content(tmp_path, calls):
    draft, path = tmp_path / ".model.draft", tmp_path / "model"
    (draft / "variables" / "deep").mkdir(parents=True)
    for name in ("a", "variables/b", "variables/deep/c"):
        (draft / name).write_text(name)
    path.mkdir()
    (path / "old").write_text("old")
    put_in_place(draft, path, tmp_path / ".model.previous")
    inside = ["/a", "/variables/b", "/variables/deep/c", "/variables/deep", "/variables", ""]
    assert sorted(calls[:6]) == sorted(f"sync .model.draft{name}" for name in inside)
    assert calls[5] == "sync .model.draft"
    assert calls[6:] == ["rename model to .model.previous", "rename .model.draft to model", "sync ."]
    assert (path / "a").read_text() == "a" and (tmp_path / ".model.previous" / "old").read_text() == "old"


@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_file_systems_that_cannot_sync_folders_are_accepted(tmp_path, monkeypatch, number, is_folder):
    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    (tmp_path / "file").touch()
    if is_folder and number != errno.EIO:
        sync(tmp_path)
        return
    with pytest.raises(OSError, match=os.strerror(number)):
        sync(tmp_path if is_folder else tmp_path / "file")


def test_export_is_synced_before_the_rename(tmp_path, calls):
    before = os.umask(0o027)
    try:
        folder = write_tiny_model(tiny_model(), tmp_path / "model")
    finally:
        os.umask(before)
    renamed = calls.index("rename .model.draft to model")
    for path in folder.rglob("*"):
        assert f"sync .model.draft/{path.relative_to(folder)}" in calls[:renamed]
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640)
    assert calls[renamed - 1] == "sync .model.draft" and calls[renamed + 1] == "sync ."


def test_drafts_in_another_folder_and_cached_features_are_synced(tmp_path, calls):
    work = tmp_path / "work"
    work.mkdir()
    write_atomically(tmp_path / "manifest.json", b"content", draft_folder=work)
    assert calls == ["sync work/.manifest.json.draft", "rename work/.manifest.json.draft to manifest.json", "sync ."]
    calls.clear()
    feature_cache._write(tmp_path / "features.npz", {"vectors": np.zeros((1, 1), np.float32)}, {})
    assert calls == ["sync .features.npz.draft", "rename .features.npz.draft to features.npz", "sync ."]
