import io
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from clmr_tf.errors import UsageError
from pipelines.preparation.downloads import JoinedFiles, UnpackingLimits, unpack_tar, unpack_zip

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


def write_tar(path, files, kind=tarfile.REGTYPE, target=""):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content) if kind == tarfile.REGTYPE else 0
            entry.type, entry.linkname = kind, target
            archive.addfile(entry, io.BytesIO(content))
    return path


WRITERS = {"zip": (write_zip, unpack_zip), "tar": (write_tar, unpack_tar)}


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=list(WRITERS))
def kind(request):
    return WRITERS[request.param]


def test_intact_archives_are_unpacked(kind, tmp_path):
    write, unpack = kind
    archive = write(tmp_path / "archive", SOUND)
    unpack(archive, tmp_path / "out", LIMITS)
    assert files_below(tmp_path / "out") == SOUND
    (tmp_path / "out/a/1.mp3").write_bytes(b"half")
    unpack(archive, tmp_path / "out", LIMITS)
    assert files_below(tmp_path / "out") == SOUND


@pytest.mark.parametrize(
    "name", ["../out.mp3", "a/../../out.mp3", "/tmp/clmr-out.mp3", "a/..", "..\\out.mp3", "C:/out.mp3"]
)
def test_names_outside_the_folder_write_nothing(kind, tmp_path, name):
    write, unpack = kind
    archive = write(tmp_path / "archive", {"good.mp3": b"good", name: b"evil"})
    with pytest.raises(UsageError, match="would be written outside of the folder"):
        unpack(archive, tmp_path / "out", LIMITS)
    assert {path.name for path in tmp_path.iterdir()} == {"archive"}


def test_links_and_devices_are_refused(tmp_path):
    archive = write_zip(tmp_path / "link.zip", {"link": b"/etc/passwd"}, external_attr=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(UsageError, match=r"'link' in it is a link or a device"):
        unpack_zip(archive, tmp_path / "out", LIMITS)
    for number, kind in enumerate([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]):
        archive = write_tar(tmp_path / f"{number}.tar", {"link": b""}, kind, target="/etc")
        with pytest.raises(UsageError, match=r"'link' in it is a link or a device"):
            unpack_tar(archive, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_an_existing_link_out_of_the_folder_is_not_followed(kind, tmp_path):
    write, unpack = kind
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leads out of"):
        unpack(write(tmp_path / "archive", SOUND), tmp_path / "out", LIMITS)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_in_place_of_a_file_is_replaced(kind, tmp_path):
    write, unpack = kind
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/1.mp3").symlink_to(tmp_path / "mine")
    unpack(write(tmp_path / "archive", SOUND), tmp_path / "out", LIMITS)
    assert (tmp_path / "mine").read_text() == "mine"
    assert files_below(tmp_path / "out") == SOUND


def test_limits_hold_before_anything_is_written(kind, tmp_path):
    write, unpack = kind
    too_large = write(tmp_path / "large", {"zeros": b"\0" * 10_001})
    too_many = write(tmp_path / "many", {str(number): b"" for number in range(6)})
    for archive in (too_large, too_many):
        with pytest.raises(UsageError, match="more than the 5 files of 10000 bytes that it may hold"):
            unpack(archive, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_a_zip_member_larger_than_announced_is_refused(tmp_path):
    archive = write_zip(tmp_path / "bomb.zip", {"zeros": b"\0" * 1_000_000})
    # The size as announced in the central directory, and in the header of the file.
    raw = archive.read_bytes().replace((1_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    archive.write_bytes(raw)
    with pytest.raises(UsageError, match="no sound"):
        unpack_zip(archive, tmp_path / "out", LIMITS)
    assert files_below(tmp_path / "out") == {}


def test_damaged_archives_are_one_sentence(tmp_path):
    archive = write_zip(tmp_path / "good.zip", {"a.mp3": np.random.default_rng(0).bytes(5000)})
    raw = bytearray(archive.read_bytes())
    raw[1000] ^= 1
    (tmp_path / "bad.zip").write_bytes(raw)
    with pytest.raises(UsageError, match=r"bad\.zip is no sound zip archive .*fetch it again\.$"):
        unpack_zip(tmp_path / "bad.zip", tmp_path / "out", LIMITS)
    (tmp_path / "cut.zip").write_bytes(raw[:3000])
    with pytest.raises(UsageError, match="no sound zip archive"):
        unpack_zip(tmp_path / "cut.zip", tmp_path / "out", LIMITS)
    tar = write_tar(tmp_path / "good.tar", {"a.mp3": np.random.default_rng(0).bytes(5000)})
    (tmp_path / "cut.tar").write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(UsageError, match="no sound tar archive"):
        unpack_tar(tmp_path / "cut.tar", tmp_path / "out", LIMITS)
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
        pytest.raises(UsageError, match=r"001 \+ .*002 is no sound"),
    ):
        unpack_zip(archive, tmp_path / "out", LIMITS)
