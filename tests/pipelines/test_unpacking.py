import io
import stat
import zipfile

import numpy as np
import pytest

from clmr_tf.errors import UsageError
from pipelines.preparation.downloads import JoinedFiles, UnpackingLimits, unpack_zip

LIMITS = UnpackingLimits(num_bytes=10_000, num_files=5)
SOUND = {"a/1.mp3": b"first", "a/2.mp3": b"second" * 100, "b/c/3.mp3": b""}


def write_zip(path, files, **fields):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo("x")
            # Past the checks of its constructor.
            entry.filename = name
            entry.compress_type = zipfile.ZIP_DEFLATED
            for field, value in fields.items():
                setattr(entry, field, value)
            archive.writestr(entry, content)
    return path


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_intact_archives_are_unpacked(tmp_path):
    archive = write_zip(tmp_path / "archive", SOUND)
    unpack_zip(archive, tmp_path / "out", LIMITS)
    assert files_below(tmp_path / "out") == SOUND
    (tmp_path / "out/a/1.mp3").write_bytes(b"half")
    unpack_zip(archive, tmp_path / "out", LIMITS)
    assert files_below(tmp_path / "out") == SOUND


@pytest.mark.parametrize(
    "name", ["../out.mp3", "a/../../out.mp3", "/tmp/clmr-out.mp3", "a/..", "..\\out.mp3", "C:/out.mp3"]
)
def test_names_outside_the_folder_write_nothing(tmp_path, name):
    archive = write_zip(tmp_path / "archive", {"good.mp3": b"good", name: b"evil"})
    with pytest.raises(UsageError, match="would be written outside the folder"):
        unpack_zip(archive, tmp_path / "out", LIMITS)
    assert {path.name for path in tmp_path.iterdir()} == {"archive"}


def test_links_and_devices_are_refused(tmp_path):
    archive = write_zip(tmp_path / "link.zip", {"link": b"/etc/passwd"}, external_attr=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(UsageError, match=r"'link' in it is a link or a device"):
        unpack_zip(archive, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_an_existing_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link out of"):
        unpack_zip(write_zip(tmp_path / "archive", SOUND), tmp_path / "out", LIMITS)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_in_place_of_a_file_is_replaced(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/1.mp3").symlink_to(tmp_path / "mine")
    unpack_zip(write_zip(tmp_path / "archive", SOUND), tmp_path / "out", LIMITS)
    assert (tmp_path / "mine").read_text() == "mine"
    assert files_below(tmp_path / "out") == SOUND


def test_limits_hold_before_anything_is_written(tmp_path):
    too_large = write_zip(tmp_path / "large", {"zeros": b"\0" * 10_001})
    too_many = write_zip(tmp_path / "many", {str(number): b"" for number in range(6)})
    for archive in (too_large, too_many):
        with pytest.raises(UsageError, match="more than the 5 files of 10000 bytes that it may contain"):
            unpack_zip(archive, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_a_zip_member_larger_than_announced_is_refused(tmp_path):
    archive = write_zip(tmp_path / "bomb.zip", {"zeros": b"\0" * 1_000_000})
    # The size as announced in the central directory, and in the header of the file.
    raw = archive.read_bytes().replace((1_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    archive.write_bytes(raw)
    with pytest.raises(UsageError, match="not a valid"):
        unpack_zip(archive, tmp_path / "out", LIMITS)
    assert files_below(tmp_path / "out") == {}


def test_damaged_archives_are_one_sentence(tmp_path):
    archive = write_zip(tmp_path / "good.zip", {"a.mp3": np.random.default_rng(0).bytes(5000)})
    raw = bytearray(archive.read_bytes())
    raw[1000] ^= 1
    (tmp_path / "bad.zip").write_bytes(raw)
    with pytest.raises(UsageError, match=r"bad\.zip is not a valid zip archive .*fetch it again\.$"):
        unpack_zip(tmp_path / "bad.zip", tmp_path / "out", LIMITS)
    (tmp_path / "cut.zip").write_bytes(raw[:3000])
    with pytest.raises(UsageError, match="not a valid zip archive"):
        unpack_zip(tmp_path / "cut.zip", tmp_path / "out", LIMITS)
    assert files_below(tmp_path / "out") == {}


def test_joined_files_read_as_one(tmp_path):
    whole = write_zip(tmp_path / "whole.zip", SOUND).read_bytes()
    paths = [tmp_path / f"mp3.zip.00{number}" for number in (1, 2, 3)]
    for path, content in zip(paths, [whole[:100], whole[100:101], whole[101:]], strict=True):
        path.write_bytes(content)
    with io.BufferedReader(JoinedFiles(paths)) as archive:
        assert archive.read() == whole
        archive.seek(99)
        assert archive.read(4) == whole[99:103]
        archive.seek(-5, io.SEEK_END)
        assert archive.read() == whole[-5:]
        unpack_zip(archive, tmp_path / "out", LIMITS)
    assert files_below(tmp_path / "out") == SOUND
    with (
        io.BufferedReader(JoinedFiles(paths[:2])) as archive,
        pytest.raises(UsageError, match=r"001 \+ .*002 is not a valid"),
    ):
        unpack_zip(archive, tmp_path / "out", LIMITS)
