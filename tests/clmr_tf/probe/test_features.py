"""Features: where they are cut, what the sources compute, their cache, and how windows are grouped by clip."""

import dataclasses
import logging

import numpy as np
import pytest

from clmr_tf.errors import ClmrError
from clmr_tf.inference.encoder import Encoder
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.heads import Head
from clmr_tf.probe.evaluation import clip_scores
from clmr_tf.probe.features import (
    EncoderFeatures,
    LabeledFeatures,
    MajorityFeatures,
    MelFeatures,
    chunks_of,
    crop_offset,
    read_features,
)
from tests.synthetic import changed_corpus, melody, ramp, synthetic_corpus

CLIP, RATE_HZ = 100, 22050
MEL_CLIP = 8192


class FirstSamples:
    """A source whose features are the first three samples of a window; counts the windows it is given."""

    kind, identity, needs_standardising = "first samples", "1" * 64, False
    clip_num_samples, sample_rate_hz = CLIP, RATE_HZ

    def __init__(self) -> None:
        self.num_windows = 0

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        self.num_windows += len(clips)
        return clips[:, :3].astype(np.float32)

    def describe(self) -> dict:
        return {"kind": self.kind}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    # Item k is 230 + k samples long: two windows and a rest.
    return synthetic_corpus(tmp_path_factory.mktemp("corpora") / "songs", num_songs={"train": 40}, num_samples=230)


@pytest.fixture
def source():
    return FirstSamples()


def read(cache, source, corpus, windows="all", seed=1, **options):
    fingerprint = corpus.manifest.fingerprint
    return read_features(source, corpus, "train", windows, seed=seed, cache=cache, fingerprint=fingerprint, **options)


def test_windows_are_consecutive_and_crops_are_at_their_offsets(source, corpus):
    features = read(None, source, corpus)
    expected = [ramp(k, 230 + k)[start : start + 3] / 32768 for k in range(40) for start in range(0, 131 + k, CLIP)]
    np.testing.assert_array_equal(features.vectors, np.array(expected, np.float32))
    assert features.clip_of_row.tolist() == [k for k in range(40) for _ in range(0, 131 + k, CLIP)]
    assert features.num_samples.tolist() == [230 + k for k in range(40)]

    crops = read(None, source, corpus, "crop", seed=7)
    offsets = [crop_offset(f"item-{k}", 131 + k, 7) for k in range(40)]
    expected = [ramp(k, 230 + k)[offset : offset + 3] / 32768 for k, offset in enumerate(offsets)]
    np.testing.assert_array_equal(crops.vectors, np.array(expected, np.float32))
    assert crops.clip_of_row.tolist() == list(range(40)) and len(set(offsets)) > 25


def test_crops_are_uniform_and_reach_both_ends():
    offsets = np.array([crop_offset(f"item {k}", 10, 3) for k in range(5000)])
    counts = np.bincount(offsets, minlength=10)
    assert len(counts) == 10 and np.abs(counts - 500).max() < 5 * np.sqrt(450)


@pytest.mark.parametrize("num_samples", [99, 50])
def test_clips_shorter_than_a_window_are_refused(tmp_path, source, num_samples):
    corpus = synthetic_corpus(tmp_path / "short", num_songs={"train": 5}, num_samples=num_samples)
    num_short = min(5, CLIP - num_samples)
    with pytest.raises(ClmrError, match=f"{num_short} clips are shorter than one window, such as 0.wav"):
        read(tmp_path / "cache", source, corpus)


def test_cached_features_are_read_the_second_time(tmp_path, source, corpus):
    progress = []
    first = read(tmp_path, source, corpus, on_clip=lambda done, total: progress.append((done, total)))
    assert source.num_windows == len(first.vectors) and progress == [(k, 40) for k in range(1, 41)]
    again = read(tmp_path, source, corpus)
    assert source.num_windows == len(first.vectors)
    for field in dataclasses.fields(LabeledFeatures):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert not list(tmp_path.rglob(".*")), "a draft was left"


def test_the_cache_depends_on_everything_but_labels(tmp_path, source, corpus):
    read(tmp_path, source, corpus)
    num_windows = source.num_windows
    relabeled = dataclasses.replace(
        corpus,
        manifest=dataclasses.replace(corpus.manifest, tag_names=("a",)),
        tag_codes=np.zeros(40, np.int32),
        tag_begins=np.arange(41),
    )
    assert read(tmp_path, source, relabeled).labels.tolist() == [[1.0]] * 40
    read(tmp_path, source, corpus, seed=2)
    assert source.num_windows == num_windows
    changed = [dataclasses.replace(item, digest="f" * 16) for item in corpus.items]
    for other in (
        {"windows": "crop"},
        {"windows": "crop", "seed": 2},
        {"corpus": changed_corpus(corpus, tmp_path / "changed", changed)},
    ):
        num_windows = source.num_windows
        read(tmp_path, source, **{"corpus": corpus, **other})
        assert source.num_windows > num_windows, other
    other_source = FirstSamples()
    other_source.identity = "2" * 64
    read(tmp_path, other_source, corpus)
    assert other_source.num_windows


@pytest.mark.parametrize("windows", ["all", "crop"])
def test_clips_that_another_split_has_are_not_computed_again(tmp_path, source, corpus, windows):
    """Tasks of a corpus differ in their splits; the order of clips and windows does not depend on the cache."""

    def with_items(numbers):
        return corpus.select(np.array(numbers))

    read(tmp_path, source, with_items(range(0, 20)), windows)
    num_windows, progress = source.num_windows, []
    mixed = with_items([25, 3, 18, 30, 7])
    features = read(tmp_path, source, mixed, windows, on_clip=lambda done, total: progress.append((done, total)))
    fresh = read(None, FirstSamples(), mixed, windows)
    assert source.num_windows - num_windows == np.isin(fresh.clip_of_row, [0, 3]).sum()
    assert progress == [(4, 5), (5, 5)]
    for field in dataclasses.fields(LabeledFeatures):
        np.testing.assert_array_equal(getattr(features, field.name), getattr(fresh, field.name))
    num_windows = source.num_windows
    read(tmp_path, source, with_items([30, 0, 25]), windows)
    assert source.num_windows == num_windows


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_cache_files_are_computed_again_with_a_warning(tmp_path, source, corpus, caplog, damage):
    first = read(tmp_path, source, corpus)
    (path,) = tmp_path.rglob("*.npz")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[content.index(first.vectors.tobytes()[:64]) + 5] ^= 1
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(damage, bytes(content)))
    num_windows = source.num_windows
    with caplog.at_level(logging.WARNING):
        again = read(tmp_path, source, corpus)
    assert source.num_windows == num_windows + len(first.vectors)
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert f"The cached features {path} are damaged" in caplog.text and "computed again" in caplog.text
    caplog.clear()
    read(tmp_path, source, corpus)
    assert not caplog.records and source.num_windows == num_windows + len(first.vectors)


def features_of(vectors, clip_of_row, num_samples=None) -> LabeledFeatures:
    num_clips = max(clip_of_row) + 1
    vectors, clip_of_row = np.array(vectors, np.float32), np.array(clip_of_row)
    return LabeledFeatures(vectors, clip_of_row, np.zeros((num_clips, 1), np.float32), np.array(num_samples))


def test_chunks_are_those_of_the_original_s_split():
    """The chunks of `torch.split(samples, 10)[:-1]`; the clip of one chunk, for which the original crashed, has one."""
    lengths = (10, 11, 19, 20, 21, 30, 39)
    windows = [(row, start) for row, length in enumerate(lengths) for start in range(0, length - 9, 10)]
    features = features_of(windows, [row for row, _ in windows], lengths)
    chunks, num_rescued = chunks_of(features, 10, drops_last=True)
    expected = [(row, start) for row, length in enumerate(lengths) for start in list(range(0, length, 10))[:-1] or [0]]
    assert chunks.vectors.tolist() == [list(window) for window in expected]
    assert chunks.clip_of_row.tolist() == [row for row, _ in expected]
    # The clips of 20 and 30 samples lose a whole chunk.
    assert num_rescued == 1 and len(expected) == len(windows) - 2
    assert chunks_of(features, 10, drops_last=False) == (features, 0)


@pytest.mark.parametrize("single_label", [True, False])
@pytest.mark.parametrize("averaged", ["probabilities", "logits"])
def test_a_clip_s_score_is_the_average_of_its_chunks(averaged, single_label):
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((3, 4)).astype(np.float32), generator.standard_normal(4).astype(np.float32)
    head = Head(np.zeros(3, np.float32), np.ones(3, np.float32), weights)
    features = features_of(generator.standard_normal((6, 3)), [0, 1, 1, 1, 2, 2])

    def activation(logits):
        return np.exp(logits) / np.exp(logits).sum() if single_label else 1 / (1 + np.exp(-logits))

    received = clip_scores(head, features, averaged, single_label)
    for clip in range(3):
        vectors = features.vectors[features.clip_of_row == clip].astype(float)
        logits = [vector @ weights[0] + weights[1] for vector in vectors]
        each = [activation(one) for one in logits]
        expected = np.mean(each, axis=0) if averaged == "probabilities" else activation(np.mean(logits, axis=0))
        np.testing.assert_allclose(received[clip], expected, rtol=1e-5)


def test_means_are_over_the_windows_of_each_clip():
    means = features_of([[1.0], [2.0], [6.0]], [0, 1, 1]).means()
    assert means.vectors.tolist() == [[1.0], [4.0]] and means.clip_of_row.tolist() == [0, 1]
    assert means.vectors.dtype == np.float32


def test_clips_with_equal_windows_stay_tied_whatever_their_number():
    # Otherwise constant scores would rank the clips by their lengths.
    clip_of_row = np.repeat(np.arange(40), np.arange(1, 41))
    features = features_of(np.zeros((len(clip_of_row), 0)), clip_of_row)
    means = features.mean_by_clip(np.tile([0.1, 1 / 3], (len(clip_of_row), 1)))
    assert np.unique(means, axis=0).tolist() == [[0.1, 1 / 3]]


def slow_mel_statistics(clip: np.ndarray) -> np.ndarray:
    """Frame by frame and band by band, in float64."""
    edges_mel = np.linspace(2595 * np.log10(1 + 30 / 700), 2595 * np.log10(1 + 11025 / 700), 98)
    bins_mel = 2595 * np.log10(1 + np.arange(1025) * RATE_HZ / 2048 / 700)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    levels = []
    for start in range(0, len(clip) - 2047, 1024):
        power = np.abs(np.fft.rfft(window * clip[start : start + 2048])) ** 2
        bands = []
        for low, middle, high in zip(edges_mel, edges_mel[1:], edges_mel[2:], strict=False):
            rising, falling = (bins_mel - low) / (middle - low), (high - bins_mel) / (high - middle)
            # The bin at 0 Hz is in no band.
            bands.append(np.sum((np.maximum(0, np.minimum(rising, falling)) * power)[1:]))
        levels.append(np.log(np.array(bands) + 1e-6))
    return np.concatenate([np.mean(levels, axis=0), np.std(levels, axis=0)])


def test_mel_statistics_equal_their_definition():
    clips = np.stack([melody(seed, MEL_CLIP) for seed in range(2)])
    source = MelFeatures(MEL_CLIP, RATE_HZ)
    received = source.features_of(clips)
    assert received.shape == (2, 192) and received.dtype == np.float32
    np.testing.assert_allclose(received, [slow_mel_statistics(clip) for clip in clips], atol=2e-3)
    # Silence is the floor in every band and every frame.
    silence = source.features_of(np.zeros((1, MEL_CLIP), np.float32))[0]
    np.testing.assert_allclose(silence, [np.log(1e-6)] * 96 + [0] * 96, atol=1e-4)
    assert source.identity != MelFeatures(MEL_CLIP, 16000).identity


def test_encoder_features_are_embeddings_identified_by_the_weights(model):
    encoder = Encoder(model, model.clip_num_samples, RATE_HZ)
    clips = melody(3, 59049)[None]
    source = EncoderFeatures(encoder, "untrained", {"seed": 2})
    np.testing.assert_array_equal(source.features_of(clips), model(clips, training=False).numpy())
    assert source.describe() == {"kind": "untrained", "model_hash": source.identity, "seed": 2}

    def identity_of(model) -> str:
        return EncoderFeatures(Encoder(model, model.clip_num_samples, RATE_HZ), "model", {}).identity

    one, same = (build_encoder(width=0.0625, seed=1) for _ in range(2))
    assert identity_of(one) == identity_of(same) != source.identity
    mean = same.normalizations[0].moving_mean
    mean.assign_add(np.full(mean.shape, 1e-6, np.float32))
    assert identity_of(one) != identity_of(same)


def test_majority_features_are_empty():
    assert MajorityFeatures(CLIP, RATE_HZ).features_of(np.zeros((3, CLIP))).shape == (3, 0)
