import pytest

from clmr_tf.errors import ClmrError, UsageError
from pipelines.preparation.debian_packages import archive_of, fetch_package, find_packages, take_files, version_in_name
from tests.pipelines.debian_files import build_package, install_apt_get, needs_dpkg_deb, zipped


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """A folder of two packages, which an apt-get in PATH knows."""
    folder = tmp_path / "debian"
    folder.mkdir()
    music = {"usr/share/games/a/1.ogg": b"one", "usr/share/games/a/2.ogg": b"two", "usr/share/doc/a/copyright": b"free"}
    packed = zipped({"music/3.ogg": b"three", "models/x": b"x"}, tmp_path)
    build_package(folder, "a-music", music)
    build_package(folder, "b.c+d-data", {"usr/share/games/b/data.pk3": packed, "usr/share/games/b/4.ogg": b"four"})
    install_apt_get(folder, monkeypatch)
    return folder


def calls(debian):
    return (debian / "log").read_text().splitlines()


@needs_dpkg_deb
def test_packages_are_fetched_once(debian, tmp_path):
    found = find_packages(["b.c+d-data", "a-music"])
    assert list(found) == ["b.c+d-data", "a-music"]
    first, second = found.values()
    assert (first.name, first.version) == ("b.c+d-data", "1:2.0-1")
    asked = calls(debian)
    assert asked[-1] == "download --print-uris b.c+d-data a-music"
    cache = tmp_path / "cache"
    path = fetch_package(second, cache)
    assert path == cache / "a-music_1%3a2.0-1_all.deb"
    assert path.read_bytes() == (debian / path.name).read_bytes()
    assert fetch_package(second, cache) == path
    assert calls(debian)[len(asked) :] == ["download a-music"]


@needs_dpkg_deb
def test_truncated_or_changed_packages_are_fetched_again(debian, tmp_path):
    package = find_packages(["a-music"])["a-music"]
    path = fetch_package(package, tmp_path)
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + b"?"):
        path.write_bytes(damaged)
        assert fetch_package(package, tmp_path).read_bytes() == content
    assert calls(debian).count("download a-music") == 3


@needs_dpkg_deb
def test_a_failed_download_is_one_sentence_and_leaves_no_package(debian, tmp_path):
    package = find_packages(["a-music"])["a-music"]
    (debian / "unreachable").touch()
    with pytest.raises(
        ClmrError, match=r"could not fetch a-music \(Failed to fetch \S+ Could not connect\); check the network"
    ):
        fetch_package(package, tmp_path / "cache")
    (debian / "unreachable").unlink()
    (debian / "garbled").touch()
    with pytest.raises(
        ClmrError, match=r"could not fetch a-music \(the file differs from the one in the package lists\)"
    ):
        fetch_package(package, tmp_path / "cache")
    # apt-get takes a file of the right size for whole, so what is wrong must go.
    assert list((tmp_path / "cache").rglob("*.deb")) == []
    (debian / "garbled").unlink()
    assert fetch_package(package, tmp_path / "cache").is_file()


@needs_dpkg_deb
def test_an_unknown_package_is_left_out_and_none_at_all_is_an_error(debian):
    assert list(find_packages(["gone-music", "a-music"])) == ["a-music"]
    with pytest.raises(UsageError, match=r"can download none of 2 packages, such as gone-music; .*apt-get update"):
        find_packages(["gone-music", "lost-data"])


def test_an_apt_that_fails_is_quoted(tmp_path, monkeypatch):
    install_apt_get(tmp_path, monkeypatch)
    script = "#!/bin/sh\necho 'E: The list of sources could not be read.' >&2\nexit 100\n"
    (tmp_path / "programs/apt-cache").write_text(script)
    with pytest.raises(UsageError, match=r"such as a-music \(The list of sources could not be read\); add the main"):
        find_packages(["a-music"])


@needs_dpkg_deb
def test_an_apt_get_that_fails_is_quoted(debian):
    script = "#!/bin/sh\necho 'E: The package cache file is corrupted.' >&2\nexit 100\n"
    (debian / "programs/apt-get").write_text(script)
    with pytest.raises(UsageError, match=r"such as a-music \(The package cache file is corrupted\); add the main"):
        find_packages(["a-music"])


@pytest.mark.parametrize(
    ("name", "version"), [("wesnoth-1.16-music", "1.16"), ("x-2.10.1", "2.10.1"), ("b.c+d-data", None), ("x-2-y", None)]
)
def test_the_version_in_a_name(name, version):
    assert version_in_name(name) == version


def test_missing_apt_get_or_dpkg_deb_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no apt-cache on this machine"):
        find_packages(["a-music"])
    with pytest.raises(UsageError, match="no dpkg-deb on this machine"):
        take_files(tmp_path / "a.deb", ["1.ogg"], tmp_path / "cache")


@needs_dpkg_deb
def test_only_wanted_files_are_unpacked(debian, tmp_path):
    wanted = ["usr/share/games/a/2.ogg", "usr/share/games/a/9.ogg"]
    folder = take_files(next(debian.glob("a-music*.deb")), wanted, tmp_path)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {"2.ogg": b"two"}
    # It is not unpacked again, unless something else is wanted.
    (folder / wanted[0]).write_bytes(b"changed")
    assert take_files(next(debian.glob("a-music*.deb")), wanted, tmp_path) == folder
    assert (folder / wanted[0]).read_bytes() == b"changed"
    other = take_files(next(debian.glob("a-music*.deb")), wanted[:1], tmp_path)
    assert (other / wanted[0]).read_bytes() == b"two"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@needs_dpkg_deb
def test_a_whole_folder_is_unpacked_without_its_links(tmp_path):
    files = {"usr/share/a/1.txt": b"one", "usr/share/a/b/2.txt": b"two", "usr/share/ab/3.txt": b"three"}
    deb = build_package(tmp_path, "tree", files, {"usr/share/a/4.txt": "/etc/passwd"})
    folder = take_files(deb, ["usr/share/a/"], tmp_path / "cache")
    received = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert received == {"usr/share/a/1.txt": b"one", "usr/share/a/b/2.txt": b"two"}


@needs_dpkg_deb
def test_archives_in_a_package_are_unpacked(debian, tmp_path):
    wanted = ["usr/share/games/b/data.pk3/music/3.ogg", "usr/share/games/b/4.ogg"]
    folder = take_files(next(debian.glob("b.c*.deb")), wanted, tmp_path)
    assert [(folder / path).read_bytes() for path in wanted] == [b"three", b"four"]
    assert list(folder.rglob("*.packed")) == []


@needs_dpkg_deb
def test_an_archive_that_would_write_outside_its_folder_is_refused(tmp_path):
    packed = zipped({"music/1.ogg": b"one", "../../../../../escaped.ogg": b"two"}, tmp_path)
    deb = build_package(tmp_path, "bad-music", {"usr/data.pk3": packed})
    with pytest.raises(UsageError, match="outside the folder"):
        take_files(deb, ["usr/data.pk3/music/1.ogg"], tmp_path / "cache")
    assert list(tmp_path.rglob("*.ogg")) == []


@needs_dpkg_deb
def test_links_in_a_package_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    deb = build_package(tmp_path, "links", {"usr/2.ogg": b"two"}, {"usr/1.ogg": str(tmp_path / "secret")})
    folder = take_files(deb, ["usr/1.ogg", "usr/2.ogg"], tmp_path / "cache")
    assert [path.name for path in folder.rglob("*.ogg")] == ["2.ogg"]


@needs_dpkg_deb
@pytest.mark.parametrize("num_bytes", [0, 100, -20])
def test_a_damaged_package_is_named(debian, tmp_path, num_bytes):
    deb = tmp_path / "cut.deb"
    deb.write_bytes(next(debian.glob("a-music*.deb")).read_bytes()[:num_bytes])
    with pytest.raises(ClmrError, match=r"cut\.deb cannot be unpacked; delete it"):
        take_files(deb, ["usr/share/games/a/1.ogg"], tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".draft")] == []


@pytest.mark.parametrize(
    ("path", "archive"),
    [
        ("usr/a/music.pk3/b/1.ogg", "usr/a/music.pk3"),
        ("usr/a/music.pk3", None),
        ("usr/a/1.ogg", None),
        ("x.zip/y.zip/1.ogg", "x.zip"),
    ],
)
def test_the_archive_in_a_path(path, archive):
    assert archive_of(path) == archive
