"""The demo corpus as it is committed: its limits, tables, licences and sound."""

import dataclasses
import hashlib
from collections import Counter

import numpy as np
import pytest
import soundfile

from clmr_tf.errors import UsageError
from pipelines.demo_data.tables import FOLDER, read_tracks

TRACKS = read_tracks()
SAMPLE_RATE_HZ = 22_050
LICENCE_URLS = {
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
}

# Copies of one recording reach 0.7 and more, the nearest two tracks of the corpus 0.12.
MAX_FINGERPRINT_CORRELATION = 0.3
FINGERPRINT_FFT_LENGTH = 2048


@dataclasses.dataclass(frozen=True)
class Sound:
    """What a test wants to know of one excerpt, without keeping its samples."""

    num_samples: int
    peak: float
    mean: float
    rms_db: float
    silent_fraction: float
    spectral_centroid_hz: float
    fingerprint: np.ndarray


def decode(file):
    audio, rate_hz = soundfile.read(FOLDER / file, dtype="float32", always_2d=True)
    assert (rate_hz, audio.shape[1]) == (SAMPLE_RATE_HZ, 1)
    return audio[:, 0]


def power_spectra(audio):
    frames = np.lib.stride_tricks.sliding_window_view(audio, 2048)[::1024] * np.hanning(2048)
    return np.abs(np.fft.rfft(frames, axis=1)) ** 2


def fingerprint_of(spectra):
    """Fourier transform over time of second differences (time and frequency) of log band energies.

    The differences are blind to level and equalisation; the transform makes all shifts in time cheap.
    """
    edges = np.unique(np.geomspace(6, 836, 33).astype(int))
    bands = np.log(np.add.reduceat(spectra, edges, axis=1)[:, :-1] + 1e-8)
    changes = np.diff(np.diff(bands, axis=0), axis=1)
    changes -= changes.mean(axis=0)
    changes /= np.linalg.norm(changes)
    return np.fft.rfft(changes, FINGERPRINT_FFT_LENGTH, axis=0).astype(np.complex64)


def best_correlations(fingerprint, others):
    """Highest normalised correlation over all shifts in time of one fingerprint with each of `others`."""
    products = np.einsum("kb,nkb->nk", fingerprint.conj(), others)
    return np.fft.irfft(products, axis=1).max(axis=1)


def describe(audio):
    frames = audio[: len(audio) // 2205 * 2205].reshape(-1, 2205)
    spectra = power_spectra(audio)
    frequencies_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, spectra.shape[1])
    return Sound(
        num_samples=len(audio),
        peak=float(np.abs(audio).max()),
        mean=float(audio.mean(dtype=np.float64)),
        rms_db=float(20 * np.log10(audio.std(dtype=np.float64))),
        silent_fraction=float(np.mean(frames.std(axis=1) < 10 ** (-55 / 20))),
        spectral_centroid_hz=float((spectra @ frequencies_hz).sum() / spectra.sum()),
        fingerprint=fingerprint_of(spectra),
    )


@pytest.fixture(scope="module")
def sounds():
    return {track.file: describe(decode(track.file)) for track in TRACKS}


def test_the_demo_data_stay_small():
    num_bytes = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.suffix != ".pyc" and path.is_file())
    assert num_bytes <= 25_000_000
    assert 96 <= len(TRACKS) <= 112
    num_of_class = Counter(track.class_name for track in TRACKS)
    assert len(num_of_class) >= 8
    assert min(num_of_class.values()) >= 8


def test_every_class_is_in_every_split_and_no_song_in_two():
    assert {track.split for track in TRACKS} == {"train", "valid", "test"}
    num_tracks = Counter((track.class_name, track.split) for track in TRACKS)
    for class_name in {track.class_name for track in TRACKS}:
        assert num_tracks[class_name, "valid"] >= 1
        assert num_tracks[class_name, "test"] >= 2
        assert num_tracks[class_name, "train"] >= 4
    split_of_song = {}
    for track in TRACKS:
        assert split_of_song.setdefault(track.song_id, track.split) == track.split
        assert track.song_id.startswith(f"{track.class_name}/")
    counts = Counter(track.split for track in TRACKS)
    assert 0.55 <= counts["train"] / len(TRACKS) <= 0.65


def test_files_are_the_ones_of_the_table():
    stored = {path.relative_to(FOLDER).as_posix() for path in (FOLDER / "audio").rglob("*") if path.is_file()}
    assert stored == {track.file for track in TRACKS}
    assert len({track.source_sha256 for track in TRACKS}) == len(TRACKS)
    for track in TRACKS:
        content = (FOLDER / track.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == track.excerpt_sha256, track.file
        assert track.file.isascii()
        assert track.file == track.file.lower()


def test_every_licence_is_allowed_and_its_statement_quoted():
    for track in TRACKS:
        assert track.licence in LICENCE_URLS, track.file
        assert f"usr/share/doc/{track.package}/copyright: " in track.licence_note, track.file
        if "GPL" in track.licence_note:
            assert f"or {track.licence}" in track.licence_note, track.file
            assert f"taken under {track.licence}" in track.licence_note, track.file
        assert not any(word in track.licence_note for word in ("-NC", "-ND", "NonCommercial", "public domain"))


def test_every_file_carries_its_title_author_and_licence():
    for track in TRACKS:
        with soundfile.SoundFile(FOLDER / track.file) as file:
            assert (file.title, file.artist) == (track.title, track.author)
            assert file.license == LICENCE_URLS[track.licence]


def test_attribution_names_every_track():
    """ATTRIBUTION.md is its preface and a list of licences, then a section for each class."""
    preface, licences, *sections = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8").split("\n## ")
    assert "every excerpt stays under the licence of the track" in preface
    num_tracks = Counter(track.licence for track in TRACKS)
    lines = [f"- {name}: {LICENCE_URLS[name]} ({num_tracks[name]} tracks)" for name in sorted(num_tracks)]
    assert licences.splitlines() == ["Licences", "", *lines]
    entries = {class_name: [class_name, ""] for class_name in dict.fromkeys(track.class_name for track in TRACKS)}
    for track in TRACKS:
        entries[track.class_name].append(
            f"- **{track.title}** by {track.author}, [{track.licence}]({LICENCE_URLS[track.licence]}). "
            f"Excerpt `{track.file}`: seconds {track.start_seconds} to {track.start_seconds + 30} of "
            f"`{track.source_path}` in the Debian package {track.package} {track.package_version}."
        )
    assert [section.splitlines() for section in sections] == list(entries.values())


def test_damaged_table_is_a_usage_error(tmp_path):
    text = (FOLDER / "tracks.csv").read_bytes()
    for content in (b"", b"file,class\n", b"\xff\xfe\n", text + b"a,b\n", text.replace(b",50,", b",half,", 1)):
        (tmp_path / "tracks.csv").write_bytes(content)
        with pytest.raises(UsageError, match="restore it"):
            read_tracks(tmp_path)


def test_every_excerpt_is_thirty_seconds_of_sound(sounds):
    for file, sound in sounds.items():
        assert sound.num_samples == 30 * SAMPLE_RATE_HZ, file
        assert 0.05 < sound.peak < 0.99, file
        assert -35 < sound.rms_db < -6, file
        assert sound.silent_fraction < 0.1, file
        assert abs(sound.mean) < 1e-3, file
        assert 40 < sound.spectral_centroid_hz < 4000, file


def test_no_two_excerpts_are_near_copies(sounds):
    files = list(sounds)
    fingerprints = np.stack([sound.fingerprint for sound in sounds.values()])
    for index in range(len(files) - 1):
        correlations = best_correlations(fingerprints[index], fingerprints[index + 1 :])
        nearest = index + 1 + int(correlations.argmax())
        assert correlations.max() < MAX_FINGERPRINT_CORRELATION, (files[index], files[nearest])


def test_near_copies_would_be_found(sounds):
    file = TRACKS[20].file
    audio = decode(file)
    noise = np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
    # Begins 7 s later, is 6 dB quieter, and noise lies over it: a copy that hashes and samples do not show.
    shifted = 0.5 * np.roll(audio, -7 * SAMPLE_RATE_HZ - 333) + 1e-3 * noise
    copy = fingerprint_of(power_spectra(shifted))
    assert best_correlations(sounds[file].fingerprint, copy[None])[0] > 2 * MAX_FINGERPRINT_CORRELATION
