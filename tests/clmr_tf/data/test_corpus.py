import dataclasses
import json

import numpy as np
import pytest

from clmr_tf.data.corpus import (
    INDEX_FILE,
    MANIFEST_FILE,
    PCM_FILE,
    Corpus,
    CorpusManifest,
    Item,
    count_by_split,
    fingerprint_of,
)
from clmr_tf.errors import UsageError

ODD_NAMES = ["plain", "line\nend", "\u2028\x85\x1c separators", "♥ Motörhead", "\udcff not UTF-8", '"quoted" \\', ""]


def item(number, name="name", *, num_samples=10, offset_samples=0, split="train", tags=(), song_id=None):
    return Item(
        id=f"{number} {name}",
        song_id=name if song_id is None else song_id,
        source=name,
        split=split,
        tags=tags,
        file=PCM_FILE,
        offset_samples=offset_samples,
        num_samples=num_samples,
        digest="0123456789abcdef",
        source_rate_hz=44100,
        source_num_channels=2,
        source_num_bytes=1000,
    )


def write(folder, items, samples, storage="pcm", **changes):
    folder.mkdir()
    index = b"".join(item.to_json().encode() + b"\n" for item in items)
    num_items, num_songs = count_by_split(items)
    fields = {
        "name": "small",
        "sample_rate_hz": 22050,
        "storage": storage,
        "tag_names": ("b", "a"),
        "num_items": num_items,
        "num_songs": num_songs,
        "num_skipped": {"silent": 2},
        "source": {"description": "a test"},
        "tool_versions": {"soxr": "1"},
        "fingerprint": fingerprint_of(index),
    }
    manifest = CorpusManifest(**{**fields, **changes})
    (folder / INDEX_FILE).write_bytes(index)
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    if samples is not None:
        np.asarray(samples, "<i2").tofile(folder / PCM_FILE)
    return manifest


def small(folder):
    items = [item(0, num_samples=4), item(1, num_samples=6, offset_samples=4, split="valid", tags=("a", "b"))]
    return items, write(folder, items, [0, 1, -1, 32767, -32768, 5, 6, 7, 8, 9])


def test_a_corpus_is_read_as_it_was_written(tmp_path):
    items, manifest = small(tmp_path / "corpus")
    corpus = Corpus.open(str(tmp_path / "corpus"))
    assert corpus.items == tuple(items)
    assert corpus.manifest == manifest
    assert corpus.items_of("valid") == (items[1],)
    assert corpus.items_of("test") == ()
    assert corpus.multi_hot(corpus.items).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert corpus.multi_hot(corpus.items).dtype == np.float32
    assert corpus.multi_hot([]).shape == (0, 2)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_unusual_names_are_preserved(tmp_path, name):
    written = [item(number, name) for number in range(3)]
    write(tmp_path / "corpus", written, np.zeros(30))
    assert Corpus.open(tmp_path / "corpus").items == tuple(written)


def test_samples_are_read_at_the_offsets_of_the_index(tmp_path):
    small(tmp_path / "corpus")
    corpus = Corpus.open(tmp_path / "corpus")
    first, second = corpus.items
    assert corpus.read_samples(first).tolist() == [0.0, 1 / 32768, -1 / 32768, 32767 / 32768]
    assert corpus.read_samples(second).tolist() == [-1.0, *(value / 32768 for value in range(5, 10))]
    assert corpus.read_samples(second, 2, 3).tolist() == [value / 32768 for value in (6, 7, 8)]
    assert corpus.read_samples(second, 5).tolist() == [9 / 32768]
    assert corpus.read_samples(first).dtype == np.float32


def test_a_direct_corpus_can_be_opened(tmp_path):
    elsewhere = [dataclasses.replace(item(0), file="/music/song.mp3")]
    write(tmp_path / "corpus", elsewhere, None, storage="direct")
    assert Corpus.open(tmp_path / "corpus").items == tuple(elsewhere)


def _remove_manifest(folder):
    (folder / MANIFEST_FILE).unlink()


def _remove_index(folder):
    (folder / INDEX_FILE).unlink()


def _remove_audio(folder):
    (folder / PCM_FILE).unlink()


def _shorten_audio(folder):
    (folder / PCM_FILE).write_bytes((folder / PCM_FILE).read_bytes()[:-1])


def _change_index(folder):
    path = folder / INDEX_FILE
    path.write_bytes(path.read_bytes().replace(b"valid", b"train"))


def _lose_a_row(folder):
    path = folder / INDEX_FILE
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def _raise_format_version(folder):
    path = folder / MANIFEST_FILE
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))


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
        (_remove_manifest, "is not a prepared corpus"),
        (_remove_index, "cannot be read"),
        (_remove_audio, "has 0 bytes instead of 20"),
        (_shorten_audio, "has 19 bytes instead of 20"),
        (_change_index, "was changed after"),
        (_lose_a_row, "was changed after"),
        (_raise_format_version, "format version 2, but this program reads 1"),
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
def test_invalid_index_rows_raise_value_error(line):
    with pytest.raises(ValueError):
        Item.from_json(line)


def test_items_and_songs_are_counted_by_split():
    items = [
        item(0, song_id="x", split="valid"),
        item(1, song_id="x", split="valid"),
        item(2, song_id="y"),
        item(3, song_id="z"),
    ]
    num_items, num_songs = count_by_split(items)
    assert list(num_items.items()) == [("train", 2), ("valid", 2)]
    assert list(num_songs.items()) == [("train", 2), ("valid", 1)]
    assert count_by_split([]) == ({}, {})


def test_the_fingerprint_is_the_sha256_of_the_index():
    assert fingerprint_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
