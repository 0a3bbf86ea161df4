"""WAV files read in a graph, against libsndfile."""

import io
import struct

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from clmr_tf.serving.wav import read_wav

FRAMES = np.random.default_rng(0).integers(-32768, 32768, (999, 8)).astype("<i2")


def wav(num_channels: int = 1, rate_hz: int = 44_100, container: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, FRAMES[:, :num_channels], rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def with_chunk(content: bytes, name: bytes, body: bytes) -> bytes:
    """The file with one more chunk before its data, filled up to an even length."""
    place = content.index(b"data")
    return content[:place] + name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2) + content[place:]


@pytest.fixture(scope="module")
def read():
    function = tf.function(read_wav, input_signature=[tf.TensorSpec([], tf.string)])
    return lambda content: tuple(one.numpy() for one in function(tf.constant(content)))


@pytest.mark.parametrize(("num_channels", "rate_hz"), [(1, 8_000), (2, 44_100), (8, 192_000)])
@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
def test_all_rates_and_channels_are_mixed_as_they_are(read, num_channels, rate_hz, container):
    samples, received_hz = read(wav(num_channels, rate_hz, container))
    assert received_hz == rate_hz and samples.dtype == np.float32
    np.testing.assert_allclose(samples, FRAMES[:, :num_channels].mean(axis=1) / 32768, atol=1e-6)


@pytest.mark.parametrize("body", [b"", b"odd", b"even", b"data" * 3])
def test_other_chunks_are_passed_over(read, body):
    samples, _ = read(with_chunk(wav(2), b"LIST", body))
    np.testing.assert_allclose(samples, FRAMES[:, :2].mean(axis=1) / 32768, atol=1e-6)


def test_a_file_that_was_cut_short_or_streamed_gives_what_is_there(read):
    whole = wav(2)
    # In the middle of a frame.
    assert len(read(whole[:-401])[0]) == 999 - 101
    place = whole.index(b"data") + 4
    streamed = whole[:place] + b"\xff\xff\xff\xff" + whole[place + 4 :]
    assert len(read(streamed)[0]) == 999
    assert len(read(wav()[: wav().index(b"data") + 8])[0]) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no WAV file"),
        (b"OggS" + bytes(50), "is no WAV file"),
        (b"RIFF\x04\x00\x00\x00AVI ", "is no WAV file"),
        (wav()[:30], "has no format or no data"),
        (wav()[:12] + wav()[36:], "has no format or no data"),
        (wav(subtype="PCM_24"), "must have 16-bit PCM"),
        (wav(subtype="FLOAT"), "must have 16-bit PCM"),
        (wav(subtype="ULAW"), "must have 16-bit PCM"),
        (wav(rate_hz=999), "must have 16-bit PCM of 1000 Hz and more"),
    ],
)
def test_everything_else_is_said_to_be_none(read, content, words):
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        read(content)


def test_damaged_headers_end_in_an_error_and_never_in_a_hang(read):
    generator = np.random.default_rng(3)
    for _ in range(200):
        content = bytearray(wav(2))
        for place in generator.integers(0, 44, 3):
            content[place] = generator.integers(256)
        try:
            samples, _ = read(bytes(content))
        except tf.errors.InvalidArgumentError:
            continue
        assert np.isfinite(samples).all() and len(samples) <= 2 * 999 + 22
