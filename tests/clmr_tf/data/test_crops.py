"""Crops depend on the seed and the global position alone."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.index import write_invented_corpus
from clmr_tf.audio.windows import window_starts
from clmr_tf.data.crops import crop_reader, pair_dataset
from clmr_tf.errors import UsageError
from tests.synthetic import PCM_FILE, synthetic_corpus

CLIP = 59049


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "ramps"
    return synthetic_corpus(folder, num_songs={"train": 40, "valid": 9}, items_per_song=2)


def batches(corpus, count, **arguments):
    settings = {"batch_size": 16, "clip_num_samples": CLIP, "seed": 7, **arguments}
    return list(pair_dataset(corpus, "train", **settings).take(count).as_numpy_iterator())


def offset_of(clip: np.ndarray, item: int) -> int:
    """Decodes the offset from the samples of a ramp."""
    values = np.round(clip[:6] * 32768).astype(int)
    shift = next(s for s in range(3) if (values[s], values[s + 3]) == (item, item))
    place = values[(s1 := shift) + 1] + 30011 * values[s1 + 2]
    return 3 * place - shift


def test_both_crops_are_slices_of_the_item_that_the_batch_names(corpus):
    items = corpus.items_of("train")
    for batch in batches(corpus, 3):
        for clips, row in zip(batch["clips"], batch["item"], strict=True):
            samples = corpus.read_samples(items[row])
            for clip in clips:
                # Item numbers below 3 can be mistaken for a place, so the whole crop is compared.
                offsets = [o for o in range(len(samples) - CLIP + 1) if (samples[o : o + 9] == clip[:9]).all()]
                assert any((samples[o : o + CLIP] == clip).all() for o in offsets)


@pytest.mark.parametrize("max_distance_samples", [0, 5, 10**6])
def test_two_crops_of_a_pair_are_at_most_so_far_apart(corpus, max_distance_samples):
    """All possible distances are about equally frequent, and the first crops are those without a limit."""
    items = corpus.items_of("train")
    limited = batches(corpus, 40, max_distance_samples=max_distance_samples)
    distances = []
    for batch, free in zip(limited, batches(corpus, 40), strict=True):
        np.testing.assert_array_equal(batch["clips"][:, 0], free["clips"][:, 0])
        np.testing.assert_array_equal(batch["seeds"], free["seeds"])
        for clips, row in zip(batch["clips"], batch["item"], strict=True):
            if row < 3:
                # Its number can be mistaken for a place.
                continue
            starts = [offset_of(clip, row) for clip in clips]
            assert min(starts) >= 0 and max(starts) <= items[row].num_samples - CLIP
            distances.append(starts[1] - starts[0])
    if max_distance_samples == 10**6:
        assert np.mean(np.abs(distances)) > 20
        return
    values, counts = np.unique(distances, return_counts=True)
    assert list(values) == list(range(-max_distance_samples, max_distance_samples + 1))
    expected = len(distances) / len(values)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_an_epoch_visits_every_song_at_most_once_and_drops_the_remainder(corpus):
    items = corpus.items_of("train")
    songs_of_epoch = []
    stream = batches(corpus, 8)
    for epoch in range(4):
        songs = [items[row].song_id for batch in stream[2 * epoch : 2 * epoch + 2] for row in batch["item"]]
        assert len(songs) == len(set(songs)) == 32
        songs_of_epoch.append(songs)
    assert len({tuple(songs) for songs in songs_of_epoch}) == 4


def test_all_items_of_a_song_are_drawn(corpus):
    rows = np.concatenate([batch["item"] for batch in batches(corpus, 30)])
    assert set(rows) == set(range(80))
    assert 0.4 < np.mean(rows % 2) < 0.6


def test_sampling_by_clip_visits_every_item_once(corpus):
    rows = np.concatenate([batch["item"] for batch in batches(corpus, 5, sampling_unit="clip")])
    assert sorted(rows) == list(range(80))


def test_starting_at_a_later_step_continues_the_same_stream(corpus):
    whole, late = batches(corpus, 7), batches(corpus, 2, first_step=5)
    for one, other in zip(whole[5:], late, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_other_seeds_give_other_songs_offsets_and_view_seeds(corpus):
    one, other = batches(corpus, 2)[1], batches(corpus, 2, seed=8)[1]
    assert (one["item"] != other["item"]).any()
    assert not np.intersect1d(one["seeds"], other["seeds"]).size


def test_view_seeds_never_repeat(corpus):
    pairs = np.concatenate([batch["seeds"].reshape(-1, 2) for batch in batches(corpus, 40)])
    assert len(np.unique(pairs, axis=0)) == len(pairs) == 40 * 32


def test_orders_of_successive_epochs_are_not_correlated(tmp_path):
    corpus = synthetic_corpus(tmp_path / "many", num_songs={"train": 600}, num_samples=16)
    stream = pair_dataset(corpus, "train", batch_size=600, clip_num_samples=8, seed=1)
    epochs = [batch["item"] for batch in stream.take(6).as_numpy_iterator()]
    assert all(sorted(order) == list(range(600)) for order in epochs)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(epochs)]
    # The default of the shuffle op gives 0.3; independent orders stay within 3 / sqrt(600).
    assert np.abs(correlations).max() < 3 / np.sqrt(600)


def orders(corpus, seed: int, epochs: list[int]) -> list[tuple[int, ...]]:
    streams = (
        pair_dataset(corpus, "train", batch_size=50, clip_num_samples=8, seed=seed, first_step=epoch)
        for epoch in epochs
    )
    return [tuple(next(stream.as_numpy_iterator())["item"]) for stream in streams]


def test_orders_do_not_repeat_after_256_epochs_or_seeds(tmp_path):
    # The shuffle op looks at the low byte of its seeds only.
    corpus = synthetic_corpus(tmp_path / "some", num_songs={"train": 50}, num_samples=16)
    found = [*orders(corpus, 1, [0, 5, 256, 261, 65536, 2**20]), *orders(corpus, 257, [0, 5])]
    assert len(set(found)) == len(found)


def test_all_songs_are_left_out_equally_often(tmp_path):
    corpus = synthetic_corpus(tmp_path / "some", num_songs={"train": 60}, num_samples=16)
    stream = pair_dataset(corpus, "train", batch_size=48, clip_num_samples=8, seed=3).take(250)
    counts = np.bincount(np.concatenate([batch["item"] for batch in stream.as_numpy_iterator()]), minlength=60)
    # Each of 250 epochs takes a song with probability 0.8: 200 within 4.5 standard deviations of 6.3.
    assert np.abs(counts - 200).max() < 28.5
    assert 0.6 < np.std(counts) / 6.3 < 1.4


def test_offsets_are_uniform_over_the_item_and_independent_between_the_crops(tmp_path):
    corpus = synthetic_corpus(tmp_path / "short", num_songs={"train": 500}, num_samples=1000)
    stream = pair_dataset(corpus, "train", batch_size=500, clip_num_samples=300, seed=2).take(8)
    first, second = [], []
    for batch in stream.as_numpy_iterator():
        for clips, row in zip(batch["clips"], batch["item"], strict=True):
            if row >= 3:
                length = 1000 + row
                first.append(offset_of(clips[0], row) / (length - 300))
                second.append(offset_of(clips[1], row) / (length - 300))
    first, second = np.array(first), np.array(second)
    assert first.min() >= 0 and first.max() <= 1
    histogram, _ = np.histogram(np.concatenate([first, second]), bins=10, range=(0, 1))
    expected = 2 * len(first) / 10
    # 27.9 is the 0.1 % quantile of chi-squared with 9 degrees of freedom.
    assert np.sum((histogram - expected) ** 2 / expected) < 27.9
    assert abs(np.corrcoef(first, second)[0, 1]) < 3 / np.sqrt(len(first))


def test_an_item_as_long_as_a_clip_is_returned_whole(tmp_path):
    corpus = synthetic_corpus(tmp_path / "exact", num_songs={"train": 2}, num_samples=CLIP)
    batch = batches(corpus, 1, batch_size=2)[0]
    row = int(np.flatnonzero(batch["item"] == 0)[0])
    samples = corpus.read_samples(corpus.items_of("train")[0])
    np.testing.assert_array_equal(batch["clips"][row], [samples, samples])


def test_full_scale_pcm_is_scaled_to_one(tmp_path):
    corpus = synthetic_corpus(tmp_path / "loud", num_songs={"train": 1}, num_samples=8)
    pcm = np.array([-32768, 32767, 0, 1, -1, 16384, 0, 0], "<i2")
    (corpus.folder / PCM_FILE).write_bytes(pcm.tobytes())
    crop = crop_reader(corpus, corpus.rows_of("train"), 6)(tf.constant(0, tf.int64), tf.constant(0, tf.int64))
    np.testing.assert_array_equal(crop.numpy(), np.array([-1, 32767 / 32768, 0, 1 / 32768, -1 / 32768, 0.5]))


def test_a_split_smaller_than_a_batch_is_rejected_with_the_largest_size(corpus):
    with pytest.raises(UsageError, match="at most 9"):
        pair_dataset(corpus, "valid", batch_size=10, clip_num_samples=CLIP, seed=0)


@pytest.mark.parametrize(
    ("num_samples", "hop", "expected"),
    [(9, None, []), (10, None, [0]), (29, None, [0, 10]), (30, None, [0, 10, 20]), (14, 2, [0, 2, 4])],
)
def test_windows_are_whole_and_in_order(num_samples, hop, expected):
    assert window_starts(num_samples, 10, hop).tolist() == expected


@pytest.mark.parametrize("num_songs", [0, 1])
def test_too_few_songs_for_any_batch_are_rejected(tmp_path, num_songs):
    songs = {"train": num_songs, "valid": 3}
    corpus = synthetic_corpus(tmp_path / "few", num_songs=songs, items_per_song=2, num_samples=CLIP)
    with pytest.raises(UsageError, match=f"at least 2 songs, and .* few has {num_songs}; add more music") as refused:
        pair_dataset(corpus, "train", batch_size=4, clip_num_samples=CLIP, seed=0)
    assert "batch-size" not in str(refused.value)


def test_many_pcm_files_are_read_up_to_the_hard_limit_of_open_files_and_then_one_sentence(tmp_path):
    write_invented_corpus(tmp_path / "corpus", num_items=400, num_files=400, item_num_samples=CLIP)
    script = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 600))
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import crop_reader
from clmr_tf.errors import UsageError
corpus = Corpus.open(Path(sys.argv[1]))
rows = corpus.rows_of("train")
read_crop = crop_reader(corpus, rows, 59049)
assert not read_crop(len(rows) - 1, 0).numpy().any()
try:
    crop_reader(corpus, rows, 59049)
except UsageError as error:
    print(error)
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "corpus")]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (
        f"The 400 PCM files of {tmp_path}/corpus cannot all be open at once (Too many open files); raise the limits "
        "`ulimit -n` and `sysctl vm.max_map_count`, or prepare the corpus in fewer shards.\n"
    )
