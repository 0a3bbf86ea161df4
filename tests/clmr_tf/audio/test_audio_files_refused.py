"""Files that are no audio, or not all of it, are one error with a reason, whatever decodes them."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.audio.decoding import UnreadableAudioError, load_audio, open_audio
from tests.sounds import tone, write_encoded, write_sound

RATE_HZ = 22050


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
        (_film_without_sound, "not_audio", "it has no sound"),
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
def test_what_cannot_be_used_is_an_error_with_a_reason(tmp_path, write, reason, detail):
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
def test_what_the_caller_raises_is_not_the_files_fault(tmp_path, name, codec):
    samples = tone(440.0, 1.0, 44100)
    if codec is None:
        write_sound(tmp_path / name, samples, 44100, "FLAC")
    else:
        write_encoded(tmp_path / name, samples[None], 44100, codec, "ipod")
    with pytest.raises(OSError, match="No space left"), open_audio(tmp_path / name, RATE_HZ) as stream:
        next(stream.blocks)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("claimed_rate_hz", [1, 2**31 - 1])
def test_an_absurd_sample_rate_is_refused_before_it_fills_the_disk(tmp_path, claimed_rate_hz):
    path = tmp_path / "sound.wav"
    write_sound(path, tone(440.0, 1.0, 44100), 44100, "WAV", "PCM_16")
    data = bytearray(path.read_bytes())
    assert data[24:28] == (44100).to_bytes(4, "little")
    data[24:28] = claimed_rate_hz.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UnreadableAudioError, match="sample rate"):
        load_audio(path, RATE_HZ)
