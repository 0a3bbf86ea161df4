import dataclasses
import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from clmr_tf.data.corpus import MANIFEST_FILE, Corpus
from clmr_tf.data.index import INDEX_FILE, Item
from clmr_tf.errors import UsageError
from tests.synthetic import PCM_FILE, save_corpus

ODD_NAMES = ["plain", "line\nend", "\u2028\x85\x1c separators", "♥ Motörhead", "\udcff not UTF-8", '"quoted" \\', ""]


def item(number, name="name", *, num_samples=10, offset_samples=0, split="train", tags=(), song_id=None):
    return Item(
        id=f"{number}",
        song_id="song" if song_id is None else song_id,
        source=name,
        split=split,
        tags=tags,
        file="",
        offset_samples=offset_samples,
        num_samples=num_samples,
        digest="0123456789abcdef",
        source_rate_hz=44100,
        source_num_channels=2,
        source_num_bytes=1000,
        lost_seconds=0.125,
    )


def small(folder):
    items = [item(0, num_samples=4), item(1, num_samples=6, offset_samples=4, split="valid", tags=("a", "b"))]
    pcm = np.array([0, 1, -1, 32767, -32768, 5, 6, 7, 8, 9])
    return items, save_corpus(folder, items, pcm, tag_names=("b", "a"), num_skipped={"silent": 2})


def test_a_corpus_is_read_as_it_was_written(tmp_path):
    items, corpus = small(tmp_path / "corpus")
    assert list(corpus.items) == items
    assert list(corpus.items_of("valid")) == [corpus.items[1]] == items[1:]
    assert list(corpus.items[:1]) == items[:1]
    assert not corpus.items_of("test")
    assert corpus.manifest.num_items == {"train": 1, "valid": 1} and corpus.manifest.num_skipped == {"silent": 2}
    assert corpus.multi_hot(np.arange(2)).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert corpus.multi_hot(np.arange(2)).dtype == np.float32
    assert corpus.multi_hot(corpus.rows_of("test")).shape == (0, 2)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_unusual_names_are_preserved(tmp_path, name):
    written = [item(number, name, offset_samples=10 * number) for number in range(3)]
    assert list(save_corpus(tmp_path / "corpus", written, np.zeros(30)).items) == written


def test_an_index_of_several_row_groups_is_read_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr("clmr_tf.data.index.ROWS_PER_GROUP", 4)
    names = [f"song {number % 5}" for number in range(11)]
    tags = [("a",) * (number % 2) + ("c",) * (number % 3 > 0) for number in range(11)]
    written = [
        item(number, f"{number}.ogg", song_id=names[number], tags=tags[number], split=("train", "test")[number % 2])
        for number in range(11)
    ]
    corpus = save_corpus(tmp_path / "corpus", written, None, tag_names=("a", "b", "c"))
    assert pq.read_metadata(corpus.folder / INDEX_FILE).num_row_groups == 3
    assert list(corpus.items) == written
    order = [10, 0, 7, 3, 4, 4, 1]
    assert corpus.read_items(np.array(order)) == [written[row] for row in order]
    # Songs are numbered in the order of their first items.
    assert corpus.song_numbers.tolist() == [number % 5 for number in range(11)]
    kept = corpus.select(np.array([9, 2, 5]))
    assert list(kept.items) == [written[9], written[2], written[5]]
    assert list(kept.items_of("test")) == [written[9], written[5]]
    np.testing.assert_array_equal(kept.multi_hot(np.arange(3)), corpus.multi_hot(np.array([9, 2, 5])))


def test_samples_are_read_at_the_offsets_of_the_index(tmp_path):
    _, corpus = small(tmp_path / "corpus")
    first, second = corpus.items
    assert corpus.read_samples(first).tolist() == [0.0, 1 / 32768, -1 / 32768, 32767 / 32768]
    assert corpus.read_samples(second).tolist() == [-1.0, *(value / 32768 for value in range(5, 10))]
    assert corpus.read_samples(second, 2, 3).tolist() == [value / 32768 for value in (6, 7, 8)]
    assert corpus.read_samples(second, 5).tolist() == [9 / 32768]
    assert corpus.read_samples(first).dtype == np.float32


def test_a_direct_corpus_can_be_opened(tmp_path):
    elsewhere = [dataclasses.replace(item(0), file="/music/\udcff song.mp3")]
    assert list(save_corpus(tmp_path / "corpus", elsewhere, None).items) == elsewhere


def _remove_index(folder):
    (folder / INDEX_FILE).unlink()


def _remove_audio(folder):
    (folder / PCM_FILE).unlink()


def _shorten_audio(folder):
    (folder / PCM_FILE).write_bytes((folder / PCM_FILE).read_bytes()[:-1])


def _change_index(folder):
    path = folder / INDEX_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _lose_a_row(folder):
    path = folder / INDEX_FILE
    pq.write_table(pq.read_table(path).slice(1), path)


def _raise_format_version(folder):
    path = folder / MANIFEST_FILE
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 3'))


def _add_a_field(folder):
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))


def _drop_a_field(folder):
    path = folder / MANIFEST_FILE
    fields = json.loads(path.read_text())
    del fields["tag_names"]
    path.write_text(json.dumps(fields))


def _break_manifest(folder):
    (folder / MANIFEST_FILE).write_text("{")


def _list_for_manifest(folder):
    (folder / MANIFEST_FILE).write_text("[1]")


def _binary_manifest(folder):
    (folder / MANIFEST_FILE).write_bytes(b"\xff\xfe\0")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_remove_index, "cannot be read"),
        (_remove_audio, "has 0 bytes instead of 20"),
        (_shorten_audio, "has 19 bytes instead of 20"),
        (_change_index, "was changed after"),
        (_lose_a_row, "was changed after"),
        (_raise_format_version, "format version 3, but this program reads 2"),
        (_add_a_field, "colour"),
        (_drop_a_field, "tag_names"),
        (_break_manifest, "cannot be read"),
        (_list_for_manifest, "list"),
        (_binary_manifest, "cannot be read"),
    ],
)
def test_damaged_corpora_are_rejected(tmp_path, damage, sentence):
    small(tmp_path / "corpus")
    damage(tmp_path / "corpus")
    with pytest.raises(UsageError) as caught:
        Corpus.open(tmp_path / "corpus")
    assert sentence in str(caught.value)
    assert "prepare" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_rejected(tmp_path):
    with pytest.raises(UsageError, match="is not a prepared corpus"):
        Corpus.open(tmp_path / "missing")


@pytest.mark.parametrize("line", ["{}", '{"id": 1}', "[]", "12", "{", '{"tags": [], "colour": 1}'])
def test_invalid_journal_rows_raise_value_error(line):
    with pytest.raises(ValueError):
        Item.from_json(line)


def test_items_and_songs_are_counted_by_split(tmp_path):
    splits = [("x", "valid"), ("x", "valid"), ("y", "train"), ("z", "train")]
    items = [item(number, song_id=song, split=split) for number, (song, split) in enumerate(splits)]
    manifest = save_corpus(tmp_path / "corpus", items, None).manifest
    assert list(manifest.num_items.items()) == [("train", 2), ("valid", 2)]
    assert list(manifest.num_songs.items()) == [("train", 2), ("valid", 1)]


def test_the_fingerprint_is_the_sha256_of_all_items_as_text(tmp_path):
    items, corpus = small(tmp_path / "corpus")
    rows = [{**dataclasses.asdict(one), "file": "audio.pcm"} for one in items]
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    assert corpus.manifest.fingerprint == hashlib.sha256(text.encode()).hexdigest()
