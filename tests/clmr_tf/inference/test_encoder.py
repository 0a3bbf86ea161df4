"""Embeddings of clips and whole recordings."""

import numpy as np
import pytest
import soundfile

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.inference.tensorflow_encoder import tensorflow_encoder
from clmr_tf.models.sample_cnn import SampleCNN
from tests.synthetic import melody

CLIP = 59049


@pytest.fixture(scope="module")
def model():
    model = SampleCNN(width=0.0625, seed=2)
    model.build()
    return model


@pytest.fixture(scope="module")
def encoder(model):
    return tensorflow_encoder(model, batch_size=3)


def test_encodes_clips_whatever_the_batch(encoder, model):
    clips = np.stack([melody(seed, CLIP) for seed in range(7)])
    together = encoder.encode_clips(clips)
    assert together.shape == (7, 512) and together.dtype == np.float32
    np.testing.assert_allclose(encoder.encode_clips(clips[5:6])[0], together[5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together, model(clips).numpy(), rtol=1e-4, atol=1e-5)
    assert encoder.encode_clips(np.zeros((0, CLIP))).shape == (0, 512)


@pytest.mark.parametrize("shape", [(CLIP,), (2, CLIP - 1), (1, 2, CLIP)])
def test_refuses_clips_of_another_shape(encoder, shape):
    with pytest.raises(UsageError, match="59049"):
        encoder.encode_clips(np.zeros(shape))


def test_a_recording_gives_one_vector_per_window_with_its_time(encoder):
    audio = melody(1, 4 * CLIP + 100)
    embedding = encoder.embed(audio)
    np.testing.assert_allclose(embedding.times_seconds, np.arange(4) * CLIP / 22050)
    np.testing.assert_allclose(
        embedding.vectors, encoder.encode_clips(audio[: 4 * CLIP].reshape(4, CLIP)), rtol=1e-4, atol=1e-5
    )
    dense = encoder.embed(audio, hop_seconds=0.5)
    np.testing.assert_allclose(np.diff(dense.times_seconds), 0.5)
    assert len(dense.times_seconds) == (3 * CLIP + 100) // 11025 + 1
    np.testing.assert_allclose(dense.vectors[0], embedding.vectors[0], rtol=1e-4, atol=1e-5)


def test_a_stereo_file_of_another_rate_gives_nearly_the_embedding_of_the_mono_original(encoder, tmp_path):
    high = melody(2, 3 * 44100 * 2, 44100)
    path = tmp_path / "stereo 44.1 kHz.flac"
    soundfile.write(path, np.stack([high * 1.2, high * 0.8], axis=1), 44100)
    from_file = encoder.embed(path)
    from_waveform = encoder.embed(high, sample_rate=44100)
    assert from_file.vectors.shape == (2, 512)
    np.testing.assert_allclose(from_file.vectors, from_waveform.vectors, rtol=0.02, atol=0.01)
    one, other = from_file.vectors
    assert np.linalg.norm(one - other) > 0


def test_a_recording_shorter_than_a_window_is_filled_up_and_flagged(encoder):
    short = np.linspace(-0.5, 0.5, CLIP - 1, dtype=np.float32)
    embedding = encoder.embed(short, hop_seconds=0.1)
    assert embedding.is_padded and embedding.times_seconds.tolist() == [0]
    np.testing.assert_array_equal(embedding.vectors, encoder.encode_clips(np.append(short, np.float32(0))[None]))
    assert not encoder.embed(np.append(short, np.float32(0))).is_padded


def test_clips_are_encoded_in_batches_of_the_size_that_is_asked_for(encoder, monkeypatch):
    sizes = []
    encode = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda audio: sizes.append(len(audio)) or encode(audio))
    clips = np.random.default_rng(0).uniform(-1, 1, (5, CLIP)).astype(np.float32)
    together, apart = encoder.encode_clips(clips), encoder.encode_clips(clips, batch_size=2)
    assert sizes == [3, 2, 2, 2, 1]
    np.testing.assert_allclose(apart, together, rtol=1e-4, atol=1e-5)


def test_recordings_that_cannot_be_embedded_are_refused(encoder, tmp_path):
    with pytest.raises(UsageError, match="has no samples"):
        encoder.embed(np.zeros(0, np.float32))
    silence = np.zeros(CLIP, np.float32)
    for hop_seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="The hop must be at least one sample"):
            encoder.embed(silence, hop_seconds=hop_seconds)
    for sample_rate in (0, -22050):
        with pytest.raises(UsageError, match="sample_rate"):
            encoder.embed(silence, sample_rate=sample_rate)
    with pytest.raises(UsageError, match="must be float"):
        encoder.embed(np.zeros(CLIP, np.int16))
    with pytest.raises(UsageError, match="must be float"):
        encoder.embed(np.zeros((1, 2, CLIP), np.float32))
    # Channels first, and none at all.
    for shape in ((2, CLIP), (CLIP, 0)):
        with pytest.raises(UsageError, match=r"\[samples, channels\] of 1 to 64 channels"):
            encoder.embed(np.zeros(shape, np.float32))
    with pytest.raises(UsageError, match="Audio must be finite; 1 of the samples"):
        encoder.encode_clips(np.where(np.arange(CLIP) == 7, np.inf, silence)[None])
    with pytest.raises(UsageError, match="1 of its samples"):
        encoder.embed(np.where(np.arange(CLIP) == 7, np.nan, silence))
    (tmp_path / "song.mp3").write_text("this is not music")
    with pytest.raises(ClmrError, match=r"song\.mp3"):
        encoder.embed(tmp_path / "song.mp3")
