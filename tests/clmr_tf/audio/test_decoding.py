"""Decoding healthy files of every format, and the errors for files that cannot be used."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clmr_tf.audio.decoding import UnreadableAudioError, decoder_versions, load_audio, open_audio
from tests.sounds import frequency_of, level_db, noise, tone, write_encoded, write_sound

RATE_HZ = 22050
SECONDS = 2.0
# A sine of peak 0.5.
TONE_DB = 20 * np.log10(0.5 / np.sqrt(2))

LIBSNDFILE_FORMATS = [
    ("WAV", "PCM_U8", 44100, 0.1),
    ("WAV", "PCM_16", 44100, 0.01),
    ("WAV", "PCM_24", 48000, 0.01),
    ("WAV", "PCM_32", 22050, 0.01),
    ("WAV", "FLOAT", 11025, 0.01),
    ("WAV", "DOUBLE", 192000, 0.01),
    ("FLAC", "PCM_16", 44100, 0.01),
    ("FLAC", "PCM_24", 96000, 0.01),
    ("OGG", "VORBIS", 44100, 0.1),
    ("OGG", "OPUS", 48000, 0.2),
    ("MP3", "MPEG_LAYER_III", 44100, 0.1),
    ("AIFF", "PCM_16", 32000, 0.01),
    ("AU", "PCM_16", 8000, 0.01),
]


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("written", LIBSNDFILE_FORMATS, ids=lambda written: "-".join(map(str, written)))
def test_formats_of_libsndfile(tmp_path, written, num_channels):
    kind, subtype, rate_hz, tolerance_db = written
    path = tmp_path / "sound"
    samples = tone(997.0, SECONDS, rate_hz)
    write_sound(path, samples if num_channels == 1 else np.stack([samples] * 2, axis=1), rate_hz, kind, subtype)
    with open_audio(path, RATE_HZ) as stream:
        audio = np.concatenate(list(stream.blocks))
        assert (stream.source_rate_hz, stream.source_num_channels) == (rate_hz, num_channels)
    assert audio.dtype == np.float32
    # FFmpeg leaves out the last block of some Vorbis files.
    assert abs(len(audio) - SECONDS * RATE_HZ) <= (64 if subtype == "VORBIS" else 1)
    _assert_is_tone(audio, 997.0, TONE_DB, tolerance_db)


# AAC, WMA and AC-3 come in whole frames; without an edit list that says so, the last one is padded.
@pytest.mark.parametrize(
    ("codec", "container", "longest_padding_seconds"),
    [("aac", "ipod", 2048 / 44100), ("aac", "adts", 2048 / 44100), ("alac", "ipod", 1 / 44100), ("wmav2", "asf", 0.1)],
)
def test_formats_of_pyav(tmp_path, codec, container, longest_padding_seconds):
    path = tmp_path / "sound"
    samples = tone(997.0, SECONDS, 44100)
    write_encoded(path, np.stack([samples, samples]), 44100, codec, container)
    with open_audio(path, RATE_HZ) as stream:
        audio = np.concatenate(list(stream.blocks))
        assert (stream.source_rate_hz, stream.source_num_channels) == (44100, 2)
    assert abs(len(audio) / RATE_HZ - SECONDS) <= longest_padding_seconds
    _assert_is_tone(audio, 997.0, TONE_DB, 0.2)


def _assert_is_tone(audio, frequency_hz, expected_db, tolerance_db):
    inner = audio[len(audio) // 8 : -len(audio) // 8]
    assert abs(frequency_of(inner, RATE_HZ) - frequency_hz) < 0.2
    assert abs(level_db(inner) - expected_db) < tolerance_db


def test_many_channels_are_averaged(tmp_path):
    frequencies_hz = [500.0 * (channel + 1) for channel in range(9)]
    path = tmp_path / "nine.wav"
    write_sound(path, np.stack([tone(f, 2.0, 96000, 0.8) for f in frequencies_hz], axis=1), 96000, "WAV", "PCM_24")
    audio = load_audio(path, RATE_HZ)
    assert len(audio) == 2 * RATE_HZ
    inner = audio[RATE_HZ // 2 : -RATE_HZ // 2]
    times = np.arange(len(inner)) / RATE_HZ
    for frequency_hz in frequencies_hz:
        amplitude = 2 * np.abs(np.mean(inner * np.exp(-2j * np.pi * frequency_hz * times)))
        assert amplitude == pytest.approx(0.8 / 9, rel=1e-3)


def test_opposite_channels_cancel(tmp_path):
    path = tmp_path / "opposite.wav"
    samples = tone(440.0, 1.0, 44100)
    write_sound(path, np.stack([samples, -samples], axis=1), 44100, "WAV", "FLOAT")
    assert np.abs(load_audio(path, RATE_HZ)).max() == 0.0


def test_resampling_does_not_alias(tmp_path):
    path = tmp_path / "high.wav"
    write_sound(path, tone(15_000.0, 2.0, 96000), 96000, "WAV", "FLOAT")
    assert level_db(load_audio(path, RATE_HZ)[2000:-2000]) < -100


def test_upsampling_adds_no_images(tmp_path):
    path = tmp_path / "telephone.wav"
    write_sound(path, noise(2.0, 8000, seed=1), 8000, "WAV", "FLOAT")
    audio = load_audio(path, RATE_HZ)
    power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
    frequencies_hz = np.fft.rfftfreq(len(audio), 1 / RATE_HZ)
    above = power[frequencies_hz > 4100].sum()
    assert 10 * np.log10(above / power.sum()) < -80


@pytest.mark.parametrize("rate_hz", [8000, 44100, 48000, 96000])
def test_resampling_does_not_shift_sound_in_time(tmp_path, rate_hz):
    samples = np.zeros(2 * rate_hz, np.float32)
    # A pulse one second in, wide enough for the lowest rate.
    samples += 0.5 * np.exp(-(((np.arange(2 * rate_hz) / rate_hz - 1.0) / 0.001) ** 2)).astype(np.float32)
    path = tmp_path / "pulse.flac"
    write_sound(path, samples, rate_hz, "FLAC", "PCM_24")
    audio = load_audio(path, RATE_HZ)
    centre = np.sum(np.arange(len(audio)) * audio) / np.sum(audio)
    assert abs(centre - RATE_HZ) < 0.05


def test_blocks_add_up_to_the_whole_file(tmp_path):
    path = tmp_path / "long.ogg"
    samples = np.stack([noise(30.0, 44100, seed=2), noise(30.0, 44100, seed=3)], axis=1)
    write_sound(path, samples, 44100, "OGG", "VORBIS")
    with open_audio(path, RATE_HZ) as stream:
        blocks = list(stream.blocks)
    assert len(blocks) > 5
    assert np.array_equal(np.concatenate(blocks), load_audio(path, RATE_HZ))


def test_a_long_file_is_decoded_in_little_memory(tmp_path):
    path = tmp_path / "long.wav"
    samples = np.tile(noise(60.0, 44100, seed=4)[:, None], (10, 2))
    write_sound(path, samples, 44100, "WAV", "PCM_16")
    script = (
        "import resource, sys\n"
        "from clmr_tf.audio.decoding import open_audio\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with open_audio(sys.argv[1], 22050) as stream:\n"
        "    num_samples = sum(len(block) for block in stream.blocks)\n"
        "print(num_samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    root = Path(__file__).parents[3]
    output = subprocess.run([sys.executable, "-c", script, path], cwd=root, capture_output=True, check=True).stdout
    num_samples, more_kib = map(int, output.split())
    assert num_samples == 600 * RATE_HZ
    # Ten minutes of stereo are 200 MiB in float32.
    assert more_kib < 40 * 1024


def test_a_truncated_mp3_is_decoded_up_to_its_end(tmp_path):
    path = tmp_path / "cut.mp3"
    write_sound(path, tone(440.0, 10.0, 44100), 44100, "MP3", "MPEG_LAYER_III")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    audio = load_audio(path, RATE_HZ)
    assert abs(len(audio) / RATE_HZ - 5.0) < 0.25
    _assert_is_tone(audio, 440.0, TONE_DB, 0.1)


@pytest.mark.parametrize("name", [b"\xff\xfe song", b"line\nbreak", "Motörhead ♥".encode(), b"-n 'quoted' \"$HOME\""])
def test_unusual_file_names(tmp_path, name):
    decoded, encoded = tmp_path / os.fsdecode(name + b".flac"), tmp_path / os.fsdecode(name + b".m4a")
    samples = tone(440.0, 1.0, 44100)
    write_sound(decoded, samples, 44100, "FLAC", "PCM_16")
    write_encoded(encoded, samples[None], 44100, "alac", "ipod")
    assert len(load_audio(decoded, RATE_HZ)) == RATE_HZ
    assert abs(len(load_audio(encoded, RATE_HZ)) - RATE_HZ) <= 1


def test_decoding_needs_no_tensorflow():
    script = "import sys, clmr_tf.audio.decoding; sys.exit('tensorflow' in sys.modules or 'av' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


def test_versions_of_all_decoders_are_known():
    versions = decoder_versions()
    assert versions.keys() == {"av", "libavformat", "libavcodec", "soxr"}
    assert all(version[0].isdigit() for version in versions.values())


def test_a_low_bit_rate_mp3_is_decoded_without_gaps_between_blocks(tmp_path):
    # Its frames borrow bits from those before; a seek between two blocks makes the decoder forget them.
    path = tmp_path / "song.mp3"
    music = np.random.default_rng(0).standard_normal(16_000 * 60).astype(np.float32) * 0.1
    music += 0.3 * np.sin(np.cumsum(2 * np.pi * np.linspace(100, 3000, len(music)) / 16_000)).astype(np.float32)
    soundfile.write(path, music, 16_000, bitrate_mode="VARIABLE", compression_level=0.9)
    in_one_piece, rate_hz = soundfile.read(path, dtype="float32")
    assert path.stat().st_size * 8 / 60 < 50_000
    np.testing.assert_allclose(load_audio(path, rate_hz), in_one_piece, rtol=0, atol=1e-5)


def _garbage(path):
    path.write_bytes(np.random.default_rng(5).integers(0, 256, 100_000, np.uint8).tobytes())


def _with_sample(value):
    def write(path):
        samples = tone(440.0, 1.0, 44100)
        samples[30_000] = value
        write_sound(path, np.stack([samples, samples], axis=1), 44100, "WAV", "FLOAT")

    return write


def _opposite_infinities(path):
    samples = np.stack([tone(440.0, 1.0, 44100)] * 2, axis=1)
    samples[100] = [np.inf, -np.inf]
    write_sound(path, samples, 44100, "WAV", "FLOAT")


def _integers_as_floats(path):
    write_sound(path, 32767 * tone(440.0, 1.0, 44100), 44100, "WAV", "FLOAT")


def _film_without_sound(path):
    # A picture in a container that PyAV opens: the one stream is video.
    import av

    with path.open("wb") as file, av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=25, width=64, height=64)
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")))
        output.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("write", "reason", "detail"),
    [
        (_garbage, "unreadable", "no audio was found"),
        (lambda path: path.write_bytes(b""), "unreadable", "empty"),
        (lambda path: path.write_text("Not found\n" * 100), "not_audio", "text"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256))), "not_audio", "image"),
        (_film_without_sound, "not_audio", "it has no audio stream"),
        (_with_sample(np.nan), "unreadable", "NaN"),
        (_with_sample(-np.inf), "unreadable", "infinite"),
        (_opposite_infinities, "unreadable", "infinite"),
        (_integers_as_floats, "unreadable", "full scale"),
        (os.mkfifo, "not_audio", "regular file"),
        (Path.mkdir, "not_audio", "regular file"),
        (lambda path: path.symlink_to(path.name), "unreadable", "symbolic links"),
        (lambda path: None, "unreadable", "No such file"),
    ],
)
def test_unusable_files_raise_an_error_with_a_reason(tmp_path, write, reason, detail):
    path = tmp_path / "sound.wav"
    write(path)
    with pytest.raises(UnreadableAudioError) as caught:
        load_audio(path, RATE_HZ)
    assert caught.value.reason == reason
    assert detail in caught.value.detail
    assert str(caught.value).startswith(f"{path} cannot be used as audio: ")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.reason, str(copy)) == (reason, str(caught.value))


@pytest.mark.parametrize(("name", "codec"), [("sound.flac", None), ("sound.m4a", "alac")])
def test_errors_of_the_caller_are_not_errors_of_the_file(tmp_path, name, codec):
    samples = tone(440.0, 1.0, 44100)
    if codec is None:
        write_sound(tmp_path / name, samples, 44100, "FLAC")
    else:
        write_encoded(tmp_path / name, samples[None], 44100, codec, "ipod")
    with pytest.raises(OSError, match="No space left"), open_audio(tmp_path / name, RATE_HZ) as stream:
        next(stream.blocks)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("claimed_rate_hz", [1, 2**31 - 1])
def test_an_implausible_sample_rate_is_rejected(tmp_path, claimed_rate_hz):
    path = tmp_path / "sound.wav"
    write_sound(path, tone(440.0, 1.0, 44100), 44100, "WAV", "PCM_16")
    data = bytearray(path.read_bytes())
    assert data[24:28] == (44100).to_bytes(4, "little")
    data[24:28] = claimed_rate_hz.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UnreadableAudioError, match="sample rate"):
        load_audio(path, RATE_HZ)
