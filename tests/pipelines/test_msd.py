import os
import pickle

import numpy as np
import pytest

from clmr_tf.data.labels import MSD_TAGS
from clmr_tf.errors import UsageError
from pipelines import msd
from tests.pipelines.published_data import SETTINGS, skipped_sources, write_clip

pytestmark = pytest.mark.usefixtures("no_workers")

TAGS_OF = {
    "TRAAA": ("rock", "happy"),
    "TRAAB": (),
    "TRAAC": ("Hip-Hop",),
    "TRAAD": ("60s", "House"),
    "TRAAE": ("pop",),
}
SPLIT_OF = {"TRAAA": "train", "TRAAB": "train", "TRAAC": "train", "TRAAD": "valid", "TRAAE": "test"}


def dump(path, content):
    # The protocol of Python 2, whose pickles they are.
    path.write_bytes(pickle.dumps(content, 2))


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(msd, "NUM_TRACKS", {"train": 3, "valid": 1, "test": 1})
    folder = tmp_path / "data"
    numbers = {track: str(8947470 + place) for place, track in enumerate(TAGS_OF)}
    paths = {number: f"8/9/{number}.clip.mp3" for number in numbers.values()}
    for seed, path in enumerate(paths.values()):
        write_clip(folder / "audio" / path, seed)
    vectors = {track: np.array([[tag in tags] for tag in MSD_TAGS]) for track, tags in TAGS_OF.items()}
    dump(folder / "filtered_list_train.cP", list(TAGS_OF)[:4])
    dump(folder / "filtered_list_test.cP", list(TAGS_OF)[4:])
    dump(folder / "msd_id_to_tag_vector.cP", vectors)
    dump(folder / "MSD_id_to_7D_id.pkl", numbers)
    dump(folder / "7D_id_to_path.pkl", paths)
    return folder


def test_the_split_of_the_published_files(data, tmp_path):
    (data / "audio/8/9/8947471.clip.mp3").unlink()
    corpus = msd.prepare_corpus(tmp_path / "corpus", SETTINGS, data)
    assert corpus.manifest.name == "msd-lee2017"
    assert corpus.manifest.tag_names == MSD_TAGS
    expected = {track: (SPLIT_OF[track], tags, track) for track, tags in TAGS_OF.items() if track != "TRAAB"}
    assert {item.id: (item.split, item.tags, item.song_id) for item in corpus.items} == expected
    assert skipped_sources(tmp_path / "corpus") == {"audio/8/9/8947471.clip.mp3": "missing"}


def test_a_pickle_that_would_run_code_is_refused(data, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    dump(data / "msd_id_to_tag_vector.cP", {"TRAAA": Attack()})
    with pytest.raises(UsageError, match=r"tag_vector\.cP is not a pickle of plain data \(it refers to .*mkdir"):
        msd.prepare_corpus(tmp_path / "corpus", SETTINGS, data)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("filtered_list_train.cP", list(TAGS_OF)[:3], "has 0 items in the split valid instead of the published 1"),
        ("filtered_list_train.cP", ["TRAAA"] * 4, "has 0 items in the split train instead of the published 3"),
        ("filtered_list_test.cP", {"TRAAE": 1}, "does not hold a list of track ids"),
        ("filtered_list_test.cP", ["TRXXX"], "does not have 'TRXXX'"),
        ("7D_id_to_path.pkl", [], "does not hold a dictionary"),
        ("7D_id_to_path.pkl", {str(8947470 + n): "../../secret.mp3" for n in range(5)}, "instead of a path such as"),
        (
            "msd_id_to_tag_vector.cP",
            dict.fromkeys(TAGS_OF, np.zeros((49, 1), bool)),
            "a tag vector that cannot be read",
        ),
    ],
)
def test_unpublished_files_are_refused(data, tmp_path, name, content, sentence):
    dump(data / name, content)
    with pytest.raises(UsageError, match=sentence):
        msd.prepare_corpus(tmp_path / "corpus", SETTINGS, data)


def test_the_published_counts():
    assert msd.NUM_TRACKS == {"train": 201_680, "valid": 11_774, "test": 28_435}
    assert MSD_TAGS[:3] + MSD_TAGS[-2:] == ("rock", "pop", "alternative", "House", "happy")
    assert len(set(MSD_TAGS)) == 50
