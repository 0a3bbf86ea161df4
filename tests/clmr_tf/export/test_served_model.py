"""The signatures of an exported model, against the encoder itself, NumPy and soxr."""

import numpy as np
import pytest
import soxr
import tensorflow as tf

from tests.clmr_tf.exported import RATE_HZ, SONG, TAGS, tags_of, wav
from tests.clmr_tf.probed import CLIP


def test_clips_give_named_embeddings_and_tags(exported):
    clips = np.stack([SONG[:CLIP], SONG[CLIP : 2 * CLIP], np.zeros(CLIP, np.float32)])
    found = exported.call("serving_default", audio=clips)
    np.testing.assert_allclose(found["embedding"], exported.encoder.encode_clips(clips), atol=1e-5)
    np.testing.assert_allclose(found["tags"], tags_of(found["embedding"]), atol=1e-6)
    assert exported.call("tag_names")["tag_names"].tolist() == [name.encode() for name in TAGS]


def test_a_waveform_gives_the_encoders_outputs(exported):
    found, expected = exported.call("waveform", audio=SONG), exported.encoder.embed(SONG)
    assert found["num_windows"] == 2
    np.testing.assert_allclose(found["times_seconds"], expected.times_seconds, atol=1e-6)
    np.testing.assert_allclose(found["embeddings"], expected.vectors, atol=1e-5)
    np.testing.assert_allclose(found["embedding"], expected.vectors.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found["tags_of_windows"], tags_of(expected.vectors), atol=1e-5)
    np.testing.assert_allclose(found["tags"], tags_of(expected.vectors).mean(axis=0), atol=1e-5)


def test_many_windows_are_encoded_in_parts_and_in_order(exported):
    long = np.tile(SONG, 10)
    found, expected = exported.call("waveform", audio=long), exported.encoder.embed(long)
    assert found["num_windows"] == 20
    np.testing.assert_allclose(found["embeddings"], expected.vectors, atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, CLIP - 1])
def test_a_short_recording_is_padded_with_zeros(exported, num_samples):
    padded = np.pad(SONG[:num_samples], (0, CLIP - num_samples))
    expected = exported.encoder.encode_clips(padded[None])
    found = exported.call("waveform", audio=SONG[:num_samples])
    np.testing.assert_allclose(found["embeddings"], expected, atol=1e-5)
    of_file = exported.call("wav_bytes", wav=[wav(SONG[:num_samples], RATE_HZ)])
    # 16 bits are 1.5e-5 of rounding.
    np.testing.assert_allclose(of_file["embeddings"][0], expected, atol=1e-3 * np.abs(expected).max() + 1e-5)


def test_files_of_any_rate_and_channels_are_mixed_and_resampled_as_soxr_does(exported):
    rates = (22_050, 8_000, 44_100, 48_000, 192_000)
    songs = [soxr.resample(SONG, RATE_HZ, rate, "VHQ") for rate in rates]
    files = [wav(np.stack([song, 0.5 * song], 1), rate, "WAVEX") for song, rate in zip(songs, rates, strict=True)]
    found = exported.call("wav_bytes", wav=files)
    assert found["embeddings"].shape == (5, 2, 512) and found["tags"].shape == (5, 3)
    np.testing.assert_array_equal(found["num_windows"], 2)
    for row, (song, rate) in enumerate(zip(songs, rates, strict=True)):
        expected = exported.encoder.embed(0.75 * song, sample_rate=rate).vectors
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found["embeddings"][row], expected, atol=5e-3 * scale)
        np.testing.assert_allclose(found["tags"][row], tags_of(expected).mean(axis=0), atol=5e-3)


@pytest.mark.parametrize(
    ("num_samples", "rate_hz"), [(257_082, 48_000), (257_083, 48_000), (4 * CLIP - 1, 44_100), (4 * CLIP - 2, 44_100)]
)
def test_a_file_has_as_many_windows_as_in_the_encoder(exported, tmp_path, num_samples, rate_hz):
    content = wav(0.1 * np.sin(np.arange(num_samples) / 20), rate_hz)
    (tmp_path / "song.wav").write_bytes(content)
    expected = len(exported.encoder.embed(tmp_path / "song.wav").vectors)
    assert expected == 1 + (num_samples in (257_083, 4 * CLIP - 1))
    assert exported.call("wav_bytes", wav=[content])["num_windows"].tolist() == [expected]


def test_many_clips_are_encoded_in_parts_and_in_order(exported):
    clips = np.stack([np.roll(SONG[:CLIP], 997 * row) for row in range(35)])
    expected = exported.encoder.encode_clips(clips)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(exported.call("serving_default", audio=clips)["embedding"], expected, atol=1e-5)


def test_music_in_the_front_pair_of_a_surround_file_is_as_loud_as_in_stereo(exported):
    pair = np.stack([SONG, 0.5 * SONG], 1)
    surround = np.concatenate([pair, np.zeros((len(SONG), 4), np.float32)], 1)
    expected = exported.call("wav_bytes", wav=[wav(pair, RATE_HZ)])["embedding"]
    np.testing.assert_allclose(
        exported.call("wav_bytes", wav=[wav(surround, RATE_HZ, "WAVEX")])["embedding"], expected, atol=1e-5
    )


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_audio_that_is_not_finite_is_refused(exported, wrong):
    audio = SONG[:CLIP].copy()
    audio[100] = wrong
    for signature, given in (("serving_default", np.stack([SONG[:CLIP], audio])), ("waveform", audio)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Audio must be finite, and some samples are not"):
            exported.call(signature, audio=given)


def test_shorter_files_of_a_batch_are_padded_and_independent(exported):
    files = [wav(SONG, RATE_HZ), wav(SONG[: CLIP + 5], RATE_HZ)]
    both, alone = exported.call("wav_bytes", wav=files), exported.call("wav_bytes", wav=files[1:])
    np.testing.assert_array_equal(both["num_windows"], [2, 1])
    np.testing.assert_array_equal(both["embeddings"][1, 1], 0)
    np.testing.assert_array_equal(both["tags_of_windows"][1, 1], 0)
    for name in ("embedding", "tags"):
        np.testing.assert_allclose(both[name][1], alone[name][0], atol=1e-6)


def test_a_file_that_is_not_wav_is_refused(exported):
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not a WAV file; send 16-bit PCM WAV"):
        exported.call("wav_bytes", wav=[wav(SONG, RATE_HZ), b"ID3"])
