"""Features are cut where they should be, computed once, and not believed when the file is damaged."""

import dataclasses
import logging

import numpy as np
import pytest

from clmr_tf.probe.features import cached_features, crop_offset
from tests.synthetic import ramp, write_corpus

CLIP = 100


class FirstSamples:
    """A source whose features are the first three samples of a clip; counts the clips it is given."""

    kind, identity, needs_standardising = "first samples", "1" * 64, False
    clip_num_samples, sample_rate_hz = CLIP, 22050

    def __init__(self) -> None:
        self.num_clips = 0

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        self.num_clips += len(clips)
        return clips[:, :3].astype(np.float32)

    def describe(self) -> dict:
        return {"kind": self.kind}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    # Item k is 230 + k samples long: two windows and a rest.
    return write_corpus(tmp_path_factory.mktemp("corpora") / "songs", num_songs={"train": 40}, num_samples=230)


@pytest.fixture
def source():
    return FirstSamples()


def read(tmp_path, source, corpus, windows="all", seed=1, items=None, **options):
    return cached_features(tmp_path, source, corpus, items or corpus.items, windows, seed=seed, **options)


def test_all_windows_follow_each_other_and_a_crop_is_anywhere(tmp_path, source, corpus):
    features = read(tmp_path, source, corpus)
    expected = [ramp(k, 230 + k)[start : start + 3] / 32768 for k in range(40) for start in range(0, 131 + k, CLIP)]
    np.testing.assert_array_equal(features.vectors, np.array(expected, np.float32))
    assert features.item.tolist() == [k for k in range(40) for _ in range(0, 131 + k, CLIP)]
    assert features.num_samples.tolist() == [230 + k for k in range(40)]

    crops = read(tmp_path, source, corpus, "crop", seed=7)
    offsets = [crop_offset(f"item-{k}", 131 + k, 7) for k in range(40)]
    expected = [ramp(k, 230 + k)[offset : offset + 3] / 32768 for k, offset in enumerate(offsets)]
    np.testing.assert_array_equal(crops.vectors, np.array(expected, np.float32))
    assert crops.item.tolist() == list(range(40)) and len(set(offsets)) > 25


def test_crops_are_uniform_and_reach_both_ends():
    offsets = np.array([crop_offset(f"item {k}", 10, 3) for k in range(5000)])
    counts = np.bincount(offsets, minlength=10)
    assert len(counts) == 10 and np.abs(counts - 500).max() < 5 * np.sqrt(450)


def test_what_was_computed_is_read_the_second_time(tmp_path, source, corpus):
    seen = []
    first = read(tmp_path, source, corpus, on_item=lambda done, of: seen.append((done, of)))
    assert source.num_clips == len(first.item) and seen == [(k, 40) for k in range(1, 41)]
    again = read(tmp_path, FirstSamples(), corpus)
    for name in ("vectors", "item", "num_samples"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    read(tmp_path, source, corpus)
    assert source.num_clips == len(first.item)
    assert not list(tmp_path.rglob(".*")), "a draft was left"


def test_labels_do_not_matter_but_everything_else_does(tmp_path, source, corpus):
    read(tmp_path, source, corpus)
    before = source.num_clips
    relabeled = [dataclasses.replace(item, tags=("a",)) for item in corpus.items]
    read(tmp_path, source, corpus, items=relabeled)
    read(tmp_path, source, corpus, seed=2)
    assert source.num_clips == before
    others = (
        {"windows": "crop"},
        {"windows": "crop", "seed": 2},
        {"items": corpus.items[:10]},
        {"items": [dataclasses.replace(item, digest="f" * 16) for item in corpus.items]},
    )
    for other in others:
        before = source.num_clips
        read(tmp_path, source, corpus, **other)
        assert source.num_clips > before, other
    stranger = FirstSamples()
    stranger.identity = "2" * 64
    read(tmp_path, stranger, corpus)
    assert stranger.num_clips


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "of something else"])
def test_a_damaged_file_is_computed_again_and_said(tmp_path, source, corpus, caplog, damage):
    first = read(tmp_path, source, corpus)
    (path,) = tmp_path.rglob("*.npz")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[content.index(first.vectors.tobytes()[:64]) + 5] ^= 1
    elif damage == "of something else":
        read(tmp_path, source, corpus, items=corpus.items[:5])
        (other,) = set(tmp_path.rglob("*.npz")) - {path}
        content = other.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(damage, bytes(content)))
    before = source.num_clips
    with caplog.at_level(logging.WARNING):
        again = read(tmp_path, source, corpus)
    assert source.num_clips == before + len(first.item)
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert f"The cached features {path} are damaged" in caplog.text and "computed again" in caplog.text
    caplog.clear()
    read(tmp_path, source, corpus)
    assert not caplog.records and source.num_clips == before + len(first.item)
