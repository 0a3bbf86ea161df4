import pytest

from clmr_tf.errors import UsageError
from pipelines import mtg_jamendo
from tests.pipelines.published_data import SETTINGS, write_clip, write_lines

pytestmark = pytest.mark.usefixtures("no_workers")

HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
# As in the published table, up to the number of tags.
TABLES = {
    "train": ["track_0786434\tartist_368880\talbum_092222\t34/786434.mp3\t460.8\tgenre---electronic\tgenre---house"],
    "validation": ["track_1048681\tartist_359617\talbum_123563\t81/1048681.mp3\t189.3\tmood/theme---emotional"],
    "test": ["track_0000215\tartist_000014\talbum_000031\t15/215.mp3\t151.4\tgenre---house"],
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(mtg_jamendo, "NUM_TRACKS", {"train": 1, "valid": 1, "test": 1})
    monkeypatch.setattr(mtg_jamendo, "NUM_TAGS", 3)
    folder = tmp_path / "data"
    for name, rows in TABLES.items():
        write_lines(folder / f"autotagging_top50tags-{name}.tsv", HEADER, *rows)
    for seed, name in enumerate(("34/786434.mp3", "81/1048681.low.mp3", "15/215.mp3")):
        write_clip(folder / "audio" / name, seed, 44100)
    return folder


def test_the_tables_are_the_split(data, tmp_path):
    corpus = mtg_jamendo.prepare_corpus(tmp_path / "corpus", SETTINGS, data)
    assert corpus.manifest.name == "mtg-jamendo-top50-split0"
    assert corpus.manifest.tag_names == ("genre---electronic", "genre---house", "mood/theme---emotional")
    assert [(item.id, item.source, item.split, item.tags) for item in corpus.items] == [
        ("track_0786434", "audio/34/786434.mp3", "train", ("genre---electronic", "genre---house")),
        ("track_1048681", "audio/81/1048681.low.mp3", "valid", ("mood/theme---emotional",)),
        ("track_0000215", "audio/15/215.mp3", "test", ("genre---house",)),
    ]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([HEADER, *TABLES["train"] * 2], "has 2 items in the split train instead of the published 1"),
        (TABLES["train"], "does not begin with the columns TRACK_ID ARTIST_ID"),
        ([HEADER, "track_1\tartist_1\talbum_1\t../1.mp3\t1.0\tgenre---house"], "and is not a track"),
        ([HEADER, "track_1\tartist_1\talbum_1\t34/1.mp3\t1.0"], "and is not a track"),
        ([HEADER, "track_1"], "and is not a track"),
        ([HEADER, TABLES["train"][0].replace("electronic", "house")], "has 2 tags instead of the published 3"),
    ],
)
def test_unpublished_tables_are_refused(data, tmp_path, lines, sentence):
    write_lines(data / "autotagging_top50tags-train.tsv", *lines)
    with pytest.raises(UsageError, match=sentence):
        mtg_jamendo.prepare_corpus(tmp_path / "corpus", SETTINGS, data)


def test_the_published_counts():
    assert mtg_jamendo.NUM_TRACKS == {"train": 32_136, "valid": 10_888, "test": 11_356}
    assert sum(mtg_jamendo.NUM_TRACKS.values()) == 54_380
