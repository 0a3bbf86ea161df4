"""WAV files read in a graph, against libsndfile."""

import io
import struct

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from clmr_tf.export.serving import read_wav, read_wav_header
from tests.clmr_tf.export.malformed import wav_bytes

# ITU-R BS.775: the centre by sqrt(1/2), each surround by half of it; without a layout, the mean.
C, S = 0.5**0.5, 0.5**1.5
WEIGHTS = {1: [1], 2: [0.5, 0.5], 6: [0.5, 0.5, C, 0, S, S], 8: [0.5, 0.5, C, 0, S, S, S, S], 9: 9 * [1 / 9]}
FRAMES = np.random.default_rng(0).integers(-32768, 32768, (999, 9)).astype("<i2")


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
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def function(content):
        header = read_wav_header(content)
        return read_wav(content, header), header.rate_hz

    return lambda content: tuple(one.numpy() for one in function(tf.constant(content)))


@pytest.mark.parametrize(("num_channels", "rate_hz"), [(1, 8_000), (2, 44_100), (6, 48_000), (8, 192_000), (9, 1_000)])
@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
def test_all_rates_and_channels_are_mixed_as_itu_r_bs_775_says(read, num_channels, rate_hz, container):
    samples, received_hz = read(wav(num_channels, rate_hz, container))
    assert received_hz == rate_hz and samples.dtype == np.float32
    np.testing.assert_allclose(samples, FRAMES[:, :num_channels] @ WEIGHTS[num_channels] / 32768, atol=1e-6)


@pytest.mark.parametrize("body", [b"", b"odd", b"even", b"data" * 3])
def test_other_chunks_are_skipped(read, body):
    samples, _ = read(with_chunk(wav(2), b"LIST", body))
    np.testing.assert_allclose(samples, FRAMES[:, :2].mean(axis=1) / 32768, atol=1e-6)


def test_truncated_and_streamed_files_give_the_existing_samples(read):
    whole = wav(2)
    # In the middle of a frame.
    assert len(read(whole[:-401])[0]) == 999 - 101
    place = whole.index(b"data") + 4
    streamed = whole[:place] + b"\xff\xff\xff\xff" + whole[place + 4 :]
    assert len(read(streamed)[0]) == 999
    # As a recorder leaves it that stopped before it wrote how much there is.
    unfinished = whole[:place] + bytes(4) + whole[place + 4 :]
    np.testing.assert_array_equal(read(unfinished)[0], read(whole)[0])


@pytest.mark.parametrize("claimed", [2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1])
def test_sizes_beyond_31_bits_are_limited_by_the_file(read, claimed):
    samples = np.arange(-200, 200, dtype="<i2")
    received, _ = read(wav_bytes(samples.tobytes(), claimed_bytes=claimed))
    np.testing.assert_array_equal(received, samples.astype(np.float32) / 32768)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a WAV file"),
        (b"OggS" + bytes(50), "is not a WAV file"),
        (b"RIFF\x04\x00\x00\x00AVI ", "is not a WAV file"),
        (wav()[:30], "has no format, or no data"),
        (wav()[:12] + wav()[36:], "has no format, or no data"),
        (wav(subtype="PCM_24"), "must be 16-bit PCM"),
        (wav(subtype="FLOAT"), "must be 16-bit PCM"),
        (wav(subtype="ULAW"), "must be 16-bit PCM"),
        (
            wav(rate_hz=999),
            "must be 16-bit PCM of 1000 to 768000 Hz; received format 1 with 16 bits, 1 channels and 999",
        ),
        (wav_bytes(rate_hz=768_001), "and 768001 Hz"),
        (wav_bytes(rate_hz=60_000_000), "and 60000000 Hz"),
        (wav_bytes(rate_hz=2**32 - 1), "and 4294967295 Hz"),
        (wav_bytes(num_channels=0), "0 channels"),
        (wav_bytes(num_channels=65535), "has no samples"),
        (wav_bytes(b""), "has no samples"),
        (wav_bytes(b"\0"), "has no samples"),
        # Of the extensible format, 3 are floats; what is cut off reads as 0.
        (wav_bytes(kind=0xFFFE, subkind=3), "received format 65534"),
        (wav_bytes(kind=0xFFFE, subkind=1)[:36], "no data"),
        (wav_bytes(chunks=b"LIST" + struct.pack("<I", 2**32 - 1)), "has no format, or no data"),
        (wav_bytes(chunks=b"LIST" + struct.pack("<I", 2**31)), "has no format, or no data"),
        # A minute of work, if every one of them were looked at.
        (wav_bytes(chunks=1_000_000 * (b"LIST" + bytes(4))), "no data in its first 100 chunks"),
        # The format behind the data.
        (wav()[:12] + wav()[36:] + wav()[12:36], "has no format"),
    ],
)
def test_other_files_are_refused(read, content, words):
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        read(content)


def test_the_extensible_format_is_read(read):
    samples = np.arange(100, dtype="<i2")
    received, _ = read(wav_bytes(samples.tobytes(), num_channels=1, kind=0xFFFE, subkind=1))
    np.testing.assert_array_equal(received, samples.astype(np.float32) / 32768)


def test_damaged_headers_never_hang(read):
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
