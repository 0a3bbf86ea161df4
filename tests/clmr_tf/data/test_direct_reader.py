"""Crops of files against whole files decoded by libsndfile and resampled by soxr."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from clmr_tf.audio.downmix import mono_weights
from clmr_tf.data.direct_reader import read_crop
from tests.clmr_tf.inference.song_files import FILES, assert_same, prepared, write_songs
from tests.synthetic import melody

CROP = 20_000
DEMO_AUDIO = Path(__file__).parents[3] / "pipelines" / "demo_data" / "audio"


@tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)])
def read_in_graph(path, offset_samples):
    return read_crop(path, offset_samples, num_samples=CROP, sample_rate_hz=22050)


def crop_of(path: Path, offset_samples: int) -> np.ndarray:
    return read_in_graph(os.fsencode(path), tf.constant(offset_samples, tf.int64)).numpy()


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("music"))


@pytest.mark.parametrize("name", FILES)
def test_crops_equal_those_of_the_prepared_reader(music, name):
    expected = prepared(music / name)
    for offset in (0, 1, 30_003, len(expected) // 2, len(expected) - CROP):
        assert_same(crop_of(music / name, offset), expected[offset : offset + CROP])


@pytest.mark.parametrize("name", ["low-22k.mp3", "22k.ogg", "8-bit.flac", "float.wav", "six-channels.wav"])
def test_seeking_is_exact_to_the_sample(music, name):
    samples, rate_hz = soundfile.read(music / name, always_2d=True)
    assert rate_hz == 22050
    expected = samples @ mono_weights(samples.shape[1])
    for offset in np.random.default_rng(0).integers(0, len(expected) - CROP, 50):
        np.testing.assert_allclose(crop_of(music / name, offset), expected[offset : offset + CROP], atol=2e-6)


def test_mp3_with_and_without_headers_and_tags(music, tmp_path):
    encoded = (music / "constant.mp3").read_bytes()
    assert encoded[:2] == b"\xff\xfb"
    gapless_header_ends = encoded.index(encoded[:3], 100)
    variants = {
        "no-header.mp3": encoded[gapless_header_ends:],
        "picture.mp3": b"ID3\x03\x00\x00\x00\x08\x00\x00" + bytes(8 << 14) + encoded,
        "old-tag.mp3": encoded + b"TAG" + b"x".ljust(125),
        "zeros-first.mp3": bytes(5000) + encoded[gapless_header_ends:],
    }
    for name, content in variants.items():
        path = tmp_path / name
        path.write_bytes(content)
        expected = prepared(path)
        for offset in (0, 40_001, len(expected) - CROP):
            assert_same(crop_of(path, offset), expected[offset : offset + CROP])


def test_other_corpus_rates(music):
    path = music / "constant.mp3"
    for sample_rate_hz in (16000, 8000):
        crop = read_crop(str(path), 11_111, num_samples=15_000, sample_rate_hz=sample_rate_hz)
        assert_same(crop.numpy(), prepared(path, sample_rate_hz)[11_111 : 11_111 + 15_000])


def test_beyond_the_end_there_is_silence(music):
    expected = prepared(music / "variable.mp3")
    crop = crop_of(music / "variable.mp3", len(expected) - 5000)
    assert_same(crop[:5000], expected[-5000:])
    assert np.abs(crop[5200:]).max() < 1e-6


def test_overshoot_is_clipped_as_in_16_bit_pcm(tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, 10 * melody(1, 60_000), 22050, subtype="FLOAT")
    crop = crop_of(path, 0)
    assert crop.min() == -1.0
    assert crop.max() == 1.0


@pytest.mark.parametrize("name", ["plain ünïcode ♫.ogg", "line\nbreak.ogg", b"not utf-8 \xff\xfe.ogg"])
def test_any_file_name(music, tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes((music / "22k.ogg").read_bytes())
    np.testing.assert_array_equal(crop_of(path, 5000), crop_of(music / "22k.ogg", 5000))


def test_demo_music():
    paths = sorted(DEMO_AUDIO.rglob("*.ogg"))[:3]
    assert len(paths) == 3
    for path in paths:
        expected = prepared(path)
        for offset in (0, 123_457, len(expected) - CROP):
            assert_same(crop_of(path, offset), expected[offset : offset + CROP])
