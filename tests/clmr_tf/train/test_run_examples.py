"""Audio examples and embeddings that a run logs for TensorBoard, read back from the files."""

import csv
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from clmr_tf.augment import AugmentationChain
from clmr_tf.config.augmentation import AugmentationConfig, GainConfig, augmentation_preset
from clmr_tf.config.train import TrainConfig
from clmr_tf.data.crops import pair_dataset
from clmr_tf.models.heads import build_projector
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.train.logs import RunLog, log_embeddings, log_views
from clmr_tf.train.step import ContrastiveModel
from tests.synthetic import changed_corpus, synthetic_corpus

CLIP = 59049
SIXTEEN_BITS = 1.01 / 32767


class FirstSamples(tf.Module):
    """An encoder of short clips whose embeddings are the samples, which identify their position."""

    clip_num_samples = 12
    sample_rate_hz = 100

    def __call__(self, clips, training):
        return clips[:, :6]


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    songs = {"train": 6, "valid": 7}
    return synthetic_corpus(folder, num_songs=songs, num_samples=5 * CLIP + 999, tag_names=("loud", "soft", "slow"))


@pytest.fixture(scope="module")
def encoder():
    encoder = SampleCNN(width=0.0625, seed=3)
    encoder.build()
    # As after training, the running statistics differ from those of a batch.
    for layer in encoder.normalizations:
        layer.moving_variance.assign(2 * tf.ones_like(layer.moving_variance))
    return encoder


def open_log(tmp_path) -> RunLog:
    return RunLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", last_kept_step=-1)


def sounds(tmp_path) -> dict[str, np.ndarray]:
    """Returns all logged audio by name as [examples, samples], all at step 0 and 22,050 Hz."""
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    heard = {}
    for name in events.Tags()["tensors"]:
        (event,) = events.Tensors(name)
        assert event.step == 0
        decoded = [tf.audio.decode_wav(wav) for wav in tf.make_ndarray(event.tensor_proto)]
        assert {int(rate) for _, rate in decoded} == {22050}
        heard[name] = np.stack([audio.numpy()[:, 0] for audio, _ in decoded])
    return heard


def log_first_views(tmp_path, music, encoder, augmentation: AugmentationConfig, num_audio_examples: int):
    """Logs a run's first views; returns its first batch and a model like that of the run."""
    model = ContrastiveModel(encoder, build_projector(seed=0), AugmentationChain(augmentation))
    dataset = pair_dataset(music, "train", batch_size=4, clip_num_samples=CLIP, seed=5)
    log = open_log(tmp_path)
    log_views(log, model, dataset, TrainConfig(num_audio_examples=num_audio_examples))
    log.close()
    return next(iter(pair_dataset(music, "train", batch_size=4, clip_num_samples=CLIP, seed=5))), model


@pytest.mark.parametrize("num_audio_examples", [1, 3, 9])
def test_clips_and_views_of_the_first_batch_are_logged(tmp_path, music, encoder, num_audio_examples):
    always_softer = AugmentationConfig(gain=GainConfig(probability=1.0))
    batch, model = log_first_views(tmp_path, music, encoder, always_softer, num_audio_examples)
    count = min(num_audio_examples, 4)
    views = model.make_views(batch["clips"], batch["seeds"]).numpy()
    heard = sounds(tmp_path)

    assert set(heard) == {f"{crop}_crop/{kind}" for crop in ("first", "second") for kind in ("original", "view")}
    for number, crop in enumerate(("first", "second")):
        original, view = heard[f"{crop}_crop/original"], heard[f"{crop}_crop/view"]
        assert original.shape == view.shape == (count, CLIP)
        np.testing.assert_allclose(original, batch["clips"][:count, number], rtol=0, atol=SIXTEEN_BITS)
        np.testing.assert_allclose(view, views[number : 2 * count : 2], rtol=0, atol=SIXTEEN_BITS)
        assert (np.abs(view - original).max(axis=1) > 100 * SIXTEEN_BITS).all()
    assert np.abs(heard["first_crop/original"] - heard["second_crop/original"]).max() > 100 * SIXTEEN_BITS


def test_views_are_logged_under_the_name_of_their_crop(tmp_path, music, encoder):
    log_first_views(tmp_path, music, encoder, augmentation_preset("only-polarity"), 4)
    heard = sounds(tmp_path)
    # This preset inverts the sign of first views only.
    for crop, sign in (("first", -1), ("second", 1)):
        original, view = heard[f"{crop}_crop/original"], heard[f"{crop}_crop/view"]
        np.testing.assert_allclose(view, sign * original, rtol=0, atol=2 * SIXTEEN_BITS)


def test_no_audio_is_logged_with_zero_examples(tmp_path, music, encoder):
    log_first_views(tmp_path, music, encoder, augmentation_preset("released"), 0)
    assert sounds(tmp_path) == {}


def logged_embeddings(tmp_path, encoder, corpus) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Returns TensorBoard's projector data: vectors [n, dimensions] and a row of metadata for each."""
    log = open_log(tmp_path)
    log_embeddings(log, encoder, corpus)
    log.close()
    vectors = np.loadtxt(tmp_path / "tensorboard" / "embeddings.tsv", delimiter="\t", ndmin=2)
    with (tmp_path / "tensorboard" / "embeddings_metadata.tsv").open(encoding="utf-8", newline="") as file:
        metadata = list(csv.DictReader(file, delimiter="\t"))
    assert len(vectors) == len(metadata)
    return vectors, metadata


def test_embeddings_match_the_windows_in_the_metadata(tmp_path, music, encoder):
    vectors, metadata = logged_embeddings(tmp_path, encoder, music)
    expected = []
    for song in range(7):
        for window in range(5):
            seconds = f"{window * CLIP / 22050:.2f}".rstrip("0").rstrip(".")
            tag = ("loud", "soft", "slow")[song % 3]
            expected.append((f"item-{6 + song}", f"valid-song-{song}", tag, float(seconds)))
    assert [(row["item"], row["song"], row["tags"], float(row["seconds"])) for row in metadata] == expected

    windows = [music.read_samples(item)[: 5 * CLIP].reshape(5, CLIP) for item in music.items if item.split == "valid"]
    h = np.concatenate([encoder(tf.constant(clips), training=False).numpy() for clips in windows])
    np.testing.assert_allclose(vectors, h, rtol=1e-4, atol=1e-4 * np.abs(h).max())
    # Each vector is nearest to the embedding of its own window.
    distances = np.linalg.norm(vectors[:, None] - h[None], axis=-1)
    np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(35))


def test_metadata_shows_several_tags_or_none(tmp_path, music):
    names = {"item-6": ("loud", "slow"), "item-7": ()}
    items = [dataclasses.replace(item, tags=names.get(item.id, item.tags)) for item in music.items]
    _, metadata = logged_embeddings(tmp_path, FirstSamples(), changed_corpus(music, tmp_path / "music", items))
    tags = {row["item"]: row["tags"] for row in metadata}
    assert (tags["item-6"], tags["item-7"], tags["item-8"]) == ("loud, slow", "-", "slow")


def places(vectors: np.ndarray) -> np.ndarray:
    """Returns item and offset in samples, int [n, 2], of windows of ramps that start at a multiple of three."""
    item, low, high = np.round(vectors[:, :3] * 32768).astype(int).T
    np.testing.assert_array_equal(item, np.round(vectors[:, 3] * 32768))
    return np.stack([item, 3 * (low + 30011 * high)], axis=1)


def test_windows_are_spread_over_long_recordings(tmp_path):
    corpus = synthetic_corpus(tmp_path / "ramps", num_songs={"train": 2, "valid": 3}, num_samples=99_995)
    vectors, metadata = logged_embeddings(tmp_path, FirstSamples(), corpus)
    heard = places(vectors)
    assert len(heard) == 3 * 666
    for row, (item, offset) in zip(metadata, heard, strict=True):
        assert row["item"] == f"item-{item}"
        assert float(row["seconds"]) == pytest.approx(offset / 100, abs=0.006)
    for item in (2, 3, 4):
        offsets = heard[heard[:, 0] == item, 1]
        # Recording n has 99,995 + n samples, so 8,333 windows fit.
        assert len(offsets) == 666 and offsets[0] == 0 and offsets[-1] == 12 * 8332
        steps = np.diff(offsets)
        assert set(steps) == {12 * 12, 12 * 13}


def test_more_than_2000_recordings_are_subsampled_evenly(tmp_path):
    corpus = synthetic_corpus(tmp_path / "ramps", num_songs={"valid": 2_999}, num_samples=30)
    vectors, _ = logged_embeddings(tmp_path, FirstSamples(), corpus)
    items, offsets = places(vectors).T
    assert len(items) == 2_000 and (items[0], items[-1]) == (0, 2_998) and not offsets.any()
    # Two of every three recordings.
    assert set(np.diff(items)) == {1, 2}
    np.testing.assert_allclose(items, np.linspace(0, 2_998, 2_000), atol=1)


def test_no_embeddings_are_logged_without_a_validation_split(tmp_path):
    corpus = synthetic_corpus(tmp_path / "ramps", num_songs={"train": 2, "test": 2}, num_samples=99)
    log = open_log(tmp_path)
    log_embeddings(log, FirstSamples(), corpus)
    log.close()
    names = [path.name for path in (tmp_path / "tensorboard").iterdir()]
    assert names and all("tfevents" in name for name in names)
