"""How the demo corpus is built: from a real Debian package with synthetic music in it."""

import csv
import dataclasses
import hashlib
import io
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import soundfile

from clmr_tf.errors import ClmrError, UsageError
from pipelines.demo_data.build import assign_splits, build, check, main
from pipelines.demo_data.tables import SelectedTrack, read_selection, read_tracks
from pipelines.preparation.debian_packages import fetch_version, take_files

SOURCE_RATE_HZ = 44_100
PACKAGE, VERSION = "demo-music", "1:2.0-1"
PLAIN_PATH = "usr/share/games/demo/one.ogg"
ZIPPED_PATH = "usr/share/games/demo/music.pk3!/music/two.ogg"

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds a Debian package")


def sine(frequency_hz, num_seconds, rate_hz):
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(num_seconds * rate_hz)) / rate_hz)


def as_ogg(audio):
    file = io.BytesIO()
    soundfile.write(file, audio, SOURCE_RATE_HZ, format="OGG", subtype="VORBIS", compression_level=0.2)
    return file.getvalue()


def amplitude(audio, frequency_hz):
    """Amplitude of one sinusoid in audio at 22,050 Hz."""
    phase = 2j * np.pi * frequency_hz * np.arange(len(audio)) / 22_050
    return 2 * abs(np.mean(audio * np.exp(-phase)))


@pytest.fixture(scope="module")
def music():
    """Two source tracks: one is loud from 10 to 40 s, with an offset and an antiphase tone; one is too loud."""
    tone, antiphase = sine(440, 47, SOURCE_RATE_HZ), sine(1000, 47, SOURCE_RATE_HZ)
    level = np.where(np.arange(len(tone)) // (10 * SOURCE_RATE_HZ) % 4 == 0, 0.05, 0.25)
    plain = np.stack([level * tone + 0.2 * antiphase + 0.3, level * tone - 0.2 * antiphase + 0.3], axis=1)
    too_loud = np.stack([sine(300, 31, SOURCE_RATE_HZ)] * 2, axis=1)
    return {PLAIN_PATH: as_ogg(plain), ZIPPED_PATH: as_ogg(too_loud)}


@pytest.fixture(scope="module")
def cache(music, tmp_path_factory):
    """A cache folder that holds the package as a .deb file."""
    tree = tmp_path_factory.mktemp("tree")
    (tree / "DEBIAN").mkdir()
    fields = f"Package: {PACKAGE}\nVersion: {VERSION}\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: d\n"
    (tree / "DEBIAN/control").write_text(fields)
    (tree / PLAIN_PATH).parent.mkdir(parents=True)
    (tree / PLAIN_PATH).write_bytes(music[PLAIN_PATH])
    archive, member = ZIPPED_PATH.split("!/")
    with zipfile.ZipFile(tree / archive, "w") as file:
        file.writestr(member, music[ZIPPED_PATH])
    folder = tmp_path_factory.mktemp("cache")
    deb = folder / f"{PACKAGE}_{VERSION.replace(':', '%3a')}_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, deb], check=True, capture_output=True)
    return folder


def selected(title, source_path, content):
    return SelectedTrack(
        class_name="tones",
        song_id=f"tones/{title}",
        title=title,
        author="Ångström & Söhne",
        package=PACKAGE,
        package_version=VERSION,
        source_path=source_path,
        source_sha256=hashlib.sha256(content).hexdigest(),
        licence="CC-BY-3.0",
        licence_note="copyright",
    )


def write_selection(folder, *tracks):
    rows = [{"class" if key == "class_name" else key: value for key, value in vars(t).items()} for t in tracks]
    with (folder / "selection.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(music, tmp_path):
    write_selection(
        tmp_path,
        selected("Été, première", PLAIN_PATH, music[PLAIN_PATH]),
        selected("Too Loud", ZIPPED_PATH, music[ZIPPED_PATH]),
    )
    return tmp_path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@needs_dpkg
def test_excerpt_is_the_loud_part_in_mono_at_its_level(folder, cache):
    quiet_start, too_loud = build(folder, cache)
    assert (quiet_start.file, too_loud.file) == ("audio/tones/ete-premiere.ogg", "audio/tones/too-loud.ogg")
    assert (quiet_start.start_seconds, too_loud.start_seconds) == (10, 0)
    audio, rate_hz = soundfile.read(folder / quiet_start.file)
    assert (rate_hz, audio.shape) == (22_050, (30 * 22_050,))
    assert amplitude(audio, 440) == pytest.approx(0.25, rel=0.02)
    assert amplitude(audio, 1000) < 1e-3
    assert abs(audio.mean()) < 1e-3
    loud, _ = soundfile.read(folder / too_loud.file)
    assert amplitude(loud, 300) == pytest.approx(0.9, rel=0.02)
    assert np.abs(loud).max() < 1.0
    assert read_tracks(folder) == (quiet_start, too_loud)
    assert "Été, première" in (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")


@needs_dpkg
def test_building_twice_gives_the_same_bytes(folder, cache):
    build(folder, cache)
    first = contents(folder)
    stale = folder / "audio/gone/gone.ogg"
    stale.parent.mkdir()
    stale.write_bytes(b"no longer selected")
    (folder / "audio/tones/too-loud.ogg.part").write_bytes(b"left by a killed build")
    build(folder, cache)
    assert contents(folder) == first
    assert check(folder, cache) == (2, 0)
    assert contents(folder) == first


@needs_dpkg
def test_check_finds_another_excerpt_and_accepts_another_encoding(folder, cache):
    first, second = (folder / track.file for track in build(folder, cache))
    audio, rate_hz = soundfile.read(first)
    soundfile.write(first, audio, rate_hz, format="OGG", subtype="VORBIS", compression_level=0.3)
    assert check(folder, cache) == (2, 1)
    shutil.copy(second, first)
    with pytest.raises(ClmrError, match="is not the excerpt that"):
        check(folder, cache)


@needs_dpkg
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_sha256": "0" * 64}, "has SHA-256"),
        ({"source_path": "usr/share/games/demo/none.ogg"}, "has no file"),
        ({"source_path": "usr/share/games/demo/music.pk3!/none.ogg"}, "has no file"),
        ({"source_path": "usr/share/games"}, "has no file"),
        ({"source_path": f"{PLAIN_PATH}!/music/two.ogg"}, "has no file"),
    ],
)
def test_unusable_source_stops_the_build_before_the_table(folder, cache, music, changes, message):
    write_selection(folder, dataclasses.replace(selected("One", PLAIN_PATH, music[PLAIN_PATH]), **changes))
    with pytest.raises(ClmrError, match=message):
        build(folder, cache)
    assert set(contents(folder)) == {"selection.csv"}


@needs_dpkg
def test_a_damaged_package_leaves_no_unpacked_folder(cache, tmp_path):
    whole = next(cache.glob("*.deb"))
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(ClmrError, match="cannot be unpacked"):
        take_files(fetch_version(PACKAGE, VERSION, tmp_path), [PLAIN_PATH], tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".draft")] == [whole.name]


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="asks apt-get")
def test_package_that_apt_does_not_know_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot fetch no-such-music 1"):
        fetch_version("no-such-music", "1", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_command_without_apt_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="There is no apt-get on this machine"):
        main(["--check", "--cache", str(tmp_path)])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"licence": "CC-BY-NC-3.0"}, {"title": "B"}, "'CC-BY-NC-3.0'; only CC-BY-3.0"),
        ({"title": "One more!"}, {"title": "one More"}, "two tracks would become audio/tones/one-more.ogg"),
    ],
)
def test_selection_with_wrong_licence_or_equal_names_is_refused(tmp_path, first, second, message):
    write_selection(tmp_path, *(dataclasses.replace(selected("A", "a", b""), **changes) for changes in (first, second)))
    with pytest.raises(UsageError, match=message):
        read_selection(tmp_path)


def test_damaged_table_is_a_usage_error(tmp_path):
    for content in (b"", b"file,class\n", b"\xff\xfe\n", b"class,song_id\na,b\n"):
        (tmp_path / "selection.csv").write_bytes(content)
        with pytest.raises(UsageError, match="restore it"):
            read_selection(tmp_path)
    with pytest.raises(UsageError, match=r"tracks\.csv is missing"):
        read_tracks(tmp_path)


@pytest.mark.parametrize(
    ("num_tracks", "num_test", "num_valid"), [(8, 2, 2), (9, 2, 2), (10, 2, 2), (15, 3, 3), (4, 2, 1)]
)
def test_split_sizes_and_whole_songs(num_tracks, num_test, num_valid):
    tracks = [selected(f"t{i}", f"path{i}", b"") for i in range(num_tracks)]
    splits = assign_splits(tracks)
    sizes = [sum(split == name for split in splits.values()) for name in ("test", "valid", "train")]
    assert sizes == [num_test, num_valid, num_tracks - num_test - num_valid]
    assert assign_splits(tracks[::-1]) == splits
    pair = [dataclasses.replace(selected("u", f"other{i}", b""), song_id="tones/theme") for i in range(2)]
    assert assign_splits([*tracks, *pair])["tones/theme"] == "train"
