"""The check that both readers agree, on real files that they do and do not agree on."""

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clmr_tf.audio.decoding import UnreadableAudioError, load_audio
from clmr_tf.audio.isolation import run_in_workers
from clmr_tf.data.direct_reader import tensorflow_io_decoders
from pipelines.preparation.direct_check import DECODERS_DISAGREE, NO_DIRECT_DECODER, are_same, validate
from pipelines.preparation.transcoding import SILENT, TOO_SHORT, TranscodingTask
from tests.synthetic import melody

needs_tensorflow_io = pytest.mark.skipif(
    tensorflow_io_decoders() is None, reason="without tensorflow-io, FFmpeg reads these files"
)
LOW_BIT_RATE = {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.99}


def write_song(path: Path, rate_hz: int = 22050, num_channels: int = 2, seconds: float = 3.0, **options) -> Path:
    mono = melody(3, round(rate_hz * seconds), rate_hz)
    soundfile.write(
        path, np.stack([mono / (1 + channel) for channel in range(num_channels)], axis=1), rate_hz, **options
    )
    return path


def measure(path: Path, sample_rate_hz: int, min_num_samples: int = 1):
    return validate(TranscodingTask(path, path.with_name("unused"), sample_rate_hz, min_num_samples))


def refusal(path: Path) -> UnreadableAudioError:
    with pytest.raises(UnreadableAudioError) as caught:
        measure(path, 22050)
    return caught.value


@pytest.mark.parametrize(
    ("name", "rate_hz", "options"),
    [
        ("song.wav", 22050, {"subtype": "PCM_16"}),
        ("song.wav", 96000, {"subtype": "PCM_24", "num_channels": 1}),
        ("song.wav", 8000, {"subtype": "PCM_U8", "num_channels": 1}),
        ("song.wav", 44100, {"subtype": "FLOAT"}),
        ("song.flac", 48000, {"subtype": "PCM_24"}),
        ("song.ogg", 32000, {"subtype": "VORBIS", "num_channels": 1}),
        ("song.mp3", 44100, {"bitrate_mode": "VARIABLE", "compression_level": 0.5}),
        ("song.mp3", 16000, {"num_channels": 1} | LOW_BIT_RATE),
        ("song.mp3", 48000, LOW_BIT_RATE),
    ],
)
@pytest.mark.parametrize("sample_rate_hz", [22050, 16000])
def test_good_files_are_measured(tmp_path, name, rate_hz, options, sample_rate_hz):
    path = write_song(tmp_path / name, rate_hz, seconds=9.0, **options)
    measured = measure(path, sample_rate_hz)
    samples, _ = soundfile.read(path, always_2d=True)
    assert measured.num_samples == pytest.approx(len(samples) * sample_rate_hz / rate_hz, abs=1)
    assert measured.num_samples == len(load_audio(path, sample_rate_hz))
    assert measured.source_rate_hz == rate_hz
    assert measured.source_num_channels == options.get("num_channels", 2)
    assert measured.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert measured.source_num_bytes == path.stat().st_size


@pytest.mark.parametrize("seconds", [0.1, 1.0, 1.001])
def test_files_shorter_than_an_excerpt(tmp_path, seconds):
    path = write_song(tmp_path / "short.flac", seconds=seconds)
    assert measure(path, 22050).num_samples == round(22050 * seconds)


def test_silent_and_too_short_files_are_refused_for_both_readers(tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(50_000), 44100)
    assert refusal(path).reason == SILENT
    with pytest.raises(UnreadableAudioError, match=r"lasts 1\.000 s, a clip 1\.001 s") as caught:
        measure(write_song(tmp_path / "short.flac", seconds=1.0), 22050, min_num_samples=22_070)
    assert caught.value.reason == TOO_SHORT


def test_damage_in_the_middle_of_a_long_file_is_found(tmp_path):
    path = tmp_path / "long.mp3"
    soundfile.write(path, np.tile(melody(3, 22050), 62), 22050, bitrate_mode="CONSTANT", compression_level=0.5)
    assert measure(path, 22050).num_samples == 62 * 22050
    encoded = bytearray(path.read_bytes())
    begin = len(encoded) * 305 // 620
    encoded[begin : begin + 700] = bytes(700)
    path.write_bytes(encoded)
    error = refusal(path)
    assert error.reason == NO_DIRECT_DECODER
    assert "of it are damaged, and only intact files are read directly" in error.detail


@needs_tensorflow_io
@pytest.mark.parametrize(
    ("name", "options", "reason", "words"),
    [
        ("song.opus", {"format": "OGG", "subtype": "OPUS"}, NO_DIRECT_DECODER, "cannot decode it at 0.0 s (.opus)"),
        ("song.aiff", {}, NO_DIRECT_DECODER, "(.aiff)"),
        ("song.wav", {"subtype": "ULAW"}, NO_DIRECT_DECODER, "(.wav)"),
        ("song.wav", {"subtype": "DOUBLE"}, NO_DIRECT_DECODER, "(.wav)"),
        ("song.wav", {"subtype": "PCM_32"}, DECODERS_DISAGREE, "differently when it begins at 0.0 s (.wav)"),
    ],
)
def test_files_that_tensorflow_io_cannot_read_are_refused(tmp_path, name, options, reason, words):
    path = write_song(tmp_path / name, rate_hz=24000, **options)
    error = refusal(path)
    assert error.reason == reason
    assert words in error.detail
    assert error.path == path


@pytest.mark.parametrize("name", ["song.mp3", "song.wav"])
def test_files_that_end_early_are_refused(tmp_path, name):
    path = write_song(tmp_path / name, rate_hz=44100)
    os.truncate(path, path.stat().st_size // 2)
    error = refusal(path)
    assert error.reason == NO_DIRECT_DECODER
    assert "about 1.5" in error.detail


def test_files_that_are_not_audio_get_the_prepared_readers_reason(tmp_path):
    path = tmp_path / "letter.mp3"
    path.write_text("dear diary " * 500)
    assert refusal(path).reason == "not_audio"
    assert refusal(tmp_path / "missing.mp3").reason == "unreadable"


@needs_tensorflow_io
def test_wav_whose_size_overflows_is_refused_before_it_aborts_the_process(tmp_path):
    path = tmp_path / "huge.wav"
    num_bytes = 2**31
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + num_bytes,
        b"WAVE",
        b"fmt ",
        16,
        1,
        2,
        44100,
        176400,
        4,
        16,
        b"data",
        num_bytes,
    )
    path.write_bytes(header)
    os.truncate(path, len(header) + num_bytes)
    assert "below 2 GiB" in refusal(path).detail


def test_small_differences_count():
    expected = melody(1, 22050)
    quiet = 0.01 * expected
    for music in (expected, quiet):
        assert are_same(music, music)
        assert are_same(music + 5e-7, music)
        assert not are_same(np.roll(music, 1), music)
        assert not are_same(1.02 * music, music)
        assert not are_same(-music, music)
        assert not are_same(np.zeros_like(music), music)
        assert not are_same(np.full_like(music, np.nan), music)
        damaged = music.copy()
        damaged[10_000:10_576] = 0
        assert not are_same(damaged, music)
    assert are_same(np.clip(30 * expected, -1, 1), 30 * expected)


@pytest.mark.soak
@needs_tensorflow_io
def test_validation_in_worker_processes(tmp_path):
    good = write_song(tmp_path / "good.ogg")
    bad = write_song(tmp_path / "bad.opus", rate_hz=24000, format="OGG", subtype="OPUS")
    tasks = [TranscodingTask(path, tmp_path / "unused", 22050, 1) for path in (good, bad, good)]
    outcomes = list(run_in_workers(validate, tasks, num_workers=1, timeout_seconds=300))
    assert outcomes[0].result == outcomes[2].result == measure(good, 22050)
    assert isinstance(outcomes[1].error, UnreadableAudioError)
    assert outcomes[1].error.reason == NO_DIRECT_DECODER
