import dataclasses
import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clmr_tf.data.corpus import Corpus
from clmr_tf.data.tasks import CorpusTask, Label, TaskDescription, task_names_in, write_task
from clmr_tf.errors import UsageError
from tests.synthetic import synthetic_corpus

LABELS = {
    "item-3": Label("test", ("rock",)),
    "item-0": Label("train", ("folk", "rock")),
    "item-1": Label("train", ()),
    "item-2": Label("valid", ("folk",)),
}


def task(**changes):
    fields = {"name": "genre", "description": "by ear", "tag_names": ("rock", "folk"), "single_label": False}
    return CorpusTask(**{**fields, "items": LABELS, **changes})


@pytest.fixture
def corpus(tmp_path):
    """Five items: two songs for training, one for validation, two for the test."""
    return synthetic_corpus(tmp_path / "corpus", num_songs={"train": 2, "valid": 1, "test": 2}, num_samples=100)


def test_a_task_replaces_splits_and_tags_of_its_items(corpus):
    write_task(task(), corpus.folder)
    assert task_names_in(corpus.folder) == ("genre",)
    tagged = corpus.for_task("genre")
    assert [(item.id, item.split, item.tags) for item in tagged.items] == [
        ("item-0", "train", ("folk", "rock")),
        ("item-1", "train", ()),
        ("item-2", "valid", ("folk",)),
        ("item-3", "test", ("rock",)),
    ]
    assert tagged.manifest.num_items == {"train": 2, "valid": 1, "test": 1}
    assert tagged.manifest.source["task"] == "genre"
    assert tagged.task == TaskDescription("genre", "by ear", ("rock", "folk"), single_label=False)
    np.testing.assert_array_equal(tagged.multi_hot(np.arange(4)), [[1, 1], [0, 0], [0, 1], [1, 0]])
    # The audio is the same, the corpus on disk too.
    np.testing.assert_array_equal(tagged.read_samples(tagged.items[3]), corpus.read_samples(corpus.items[3]))
    assert list(Corpus.open(corpus.folder).items) == list(corpus.items)


def test_the_fingerprint_covers_index_and_task(corpus):
    write_task(task(), corpus.folder)
    first = corpus.for_task("genre").manifest.fingerprint
    # As in the first format of corpora, where a task was this text.
    text = json.dumps({"format": 1, **dataclasses.asdict(task())}, indent=1, sort_keys=True) + "\n"
    task_sha256 = hashlib.sha256(text.encode()).hexdigest()
    expected = hashlib.sha256(f"{corpus.manifest.fingerprint} {task_sha256}".encode()).hexdigest()
    assert first == expected != corpus.manifest.fingerprint
    write_task(task(description="by another ear"), corpus.folder)
    assert corpus.for_task("genre").manifest.fingerprint != first


def test_switching_from_one_task_to_another(corpus):
    write_task(task(), corpus.folder)
    write_task(task(name="other", items={"item-4": Label("train", ())}), corpus.folder)
    assert [item.id for item in corpus.for_task("genre").for_task("other").items] == ["item-4"]


def test_an_unknown_task_is_rejected_with_a_list_of_tasks(corpus):
    with pytest.raises(UsageError, match="has no task 'genre'; it has none"):
        corpus.for_task("genre")
    write_task(task(), corpus.folder)
    write_task(task(name="artist"), corpus.folder)
    with pytest.raises(UsageError, match=r"has no task '\.\./genre'; it has artist, genre"):
        corpus.for_task("../genre")


def test_a_task_with_unknown_items_or_a_song_in_two_splits_is_rejected(tmp_path):
    corpus = synthetic_corpus(tmp_path / "pairs", num_songs={"train": 2}, items_per_song=2, num_samples=100)
    write_task(task(), corpus.folder)
    with pytest.raises(UsageError, match="has the song 'train-song-1' in two splits"):
        corpus.for_task("genre")
    write_task(task(items={**LABELS, "item-9": Label("train", ())}), corpus.folder)
    with pytest.raises(UsageError, match="labels 'item-9', which is not in the corpus"):
        corpus.for_task("genre")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "Genre"}, "cannot be called 'Genre'"),
        ({"name": "../genre"}, "cannot be called"),
        ({"items": {}}, "labels no item"),
        ({"tag_names": ("rock", "rock", "folk")}, "occurs twice"),
        ({"tag_names": ("folk",)}, "'item-3' has the tag 'rock'"),
        ({"single_label": True}, "'item-0' has 2 tags instead of one class"),
        ({"items": {"item-0": Label("dev", ())}}, "in the split 'dev'"),
    ],
)
def test_inconsistent_tasks_are_rejected(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        task(**changes)


def test_invalid_task_files_are_rejected(corpus):
    path = write_task(task(), corpus.folder)
    good = pq.read_table(path)
    metadata = json.loads(good.schema.metadata[b"task"])
    moved = good.set_column(1, "split", pa.array([0, 0, 0, 0], pa.int8()))
    for table, complaint in [
        (good.replace_schema_metadata({b"task": json.dumps({**metadata, "format_version": 3})}), "format 3, but"),
        (good.replace_schema_metadata({}), "format None"),
        (good.replace_schema_metadata({b"task": json.dumps({**metadata, "tag_names": None})}), "cannot be used"),
        (good.drop_columns(["split"]), "other columns"),
        # Programs that change rows keep the metadata.
        (moved, "its labels were changed"),
        (good.slice(1), "its labels were changed"),
    ]:
        pq.write_table(table, path)
        with pytest.raises(UsageError, match=complaint):
            corpus.for_task("genre")
    path.write_bytes(b"\xff{")
    with pytest.raises(UsageError, match=r"genre\.parquet cannot be used"):
        corpus.for_task("genre")
