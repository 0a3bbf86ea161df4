import csv
import fcntl
import hashlib
import io
import zipfile

import pytest

from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import UsageError
from pipelines import fma
from tests.pipelines.file_server import running_file_server
from tests.pipelines.published_data import SETTINGS, write_clip

pytestmark = pytest.mark.usefixtures("no_workers")

HEADERS = [
    ["", "album", "set", "set", "track", "track"],
    ["", "information", "split", "subset", "genre_top", "title"],
    ["track_id", "", "", "", "", ""],
]
# A text longer than what Python's reader takes by default, with a line break and a comma in it.
ESSAY = "A long story,\n" * 20_000
ROWS = [
    ["2", ESSAY, "training", "small", "Hip-Hop", "Food"],
    ["1703", "", "validation", "small", "Rock", "Anthem"],
    ["134567", "", "test", "medium", "Old-Time / Historic", "Reel"],
    ["155066", "", "training", "large", "", "Tune"],
]
COUNTS = {
    "small": {"train": 1, "valid": 1, "test": 0},
    "medium": {"train": 1, "valid": 1, "test": 1},
    "large": {"train": 2, "valid": 1, "test": 1},
}
WORK = ("--min-num-samples", "11025", "--num-workers", "1")
FILES = ("000/000002.mp3", "001/001703.mp3", "134/134567.mp3", "155/155066.mp3")


def table(rows=ROWS, headers=HEADERS):
    text = io.StringIO()
    csv.writer(text).writerows([*headers, *rows])
    return text.getvalue()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(fma, "NUM_CLIPS", COUNTS)
    for folder, names in (("fma_medium", FILES[:3]), ("fma_large", FILES)):
        for seed, name in enumerate(names):
            write_clip(tmp_path / "data" / folder / name, seed, 44100)
    (tmp_path / "data/fma_metadata").mkdir()
    (tmp_path / "data/fma_metadata/tracks.csv").write_text(table(), newline="")
    return tmp_path / "data"


def prepare_subset(size, destination, data):
    fma.main(["--size", size, "--data", str(data), "--out", str(destination), *WORK])
    return Corpus.open(destination)


def test_a_subset_holds_the_smaller_ones(data, tmp_path):
    medium = fma.prepare_corpus(tmp_path / "medium", SETTINGS, data)
    assert medium.manifest.name == "fma-medium"
    assert [(item.id, item.source, item.split, item.tags) for item in medium.items] == [
        ("2", "fma_medium/000/000002.mp3", "train", ("Hip-Hop",)),
        ("1703", "fma_medium/001/001703.mp3", "valid", ("Rock",)),
        ("134567", "fma_medium/134/134567.mp3", "test", ("Old-Time / Historic",)),
    ]
    large = prepare_subset("large", tmp_path / "large", data)
    assert large.manifest.name == "fma-large"
    assert large.items[-1].tags == ()
    assert large.manifest.tag_names == ("Hip-Hop", "Old-Time / Historic", "Rock")
    with pytest.raises(UsageError, match="was prepared with corpus fma-medium, not fma-large"):
        prepare_subset("large", tmp_path / "medium", data)


def test_a_missing_subset_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match=r"2 of the 2 audio files of fma-small are missing, such as .*fma_small/000"):
        prepare_subset("small", tmp_path / "small", data)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (table(ROWS[1:]), "has 0 items in the split train instead of the published 1"),
        (table([*ROWS, ["x", "", "training", "small", "", ""]]), "begins with .'x', ''. and is not a track"),
        (table([*ROWS, ["9", "", "training"]]), "and is not a track"),
        (table([*ROWS, ["9", "", "rest", "small", "", ""]]), "and is not a track"),
        (table(headers=HEADERS[1:]), "does not begin with the three header rows"),
        ("", "does not begin with the three header rows"),
    ],
)
def test_unpublished_tables_are_refused(data, tmp_path, text, sentence):
    (data / "fma_metadata/tracks.csv").write_text(text, newline="")
    with pytest.raises(UsageError, match=sentence):
        fma.prepare_corpus(tmp_path / "corpus", SETTINGS, data)


def test_download_unpacks_table_and_audio(data, tmp_path, monkeypatch):
    archives = {}
    for name in ("fma_metadata", "fma_medium"):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path in (data / name).rglob("*.*"):
                archive.write(path, path.relative_to(data))
        archives[name] = content.getvalue()
    with running_file_server() as server:
        server.files = {f"{name}.zip": content for name, content in archives.items()}
        monkeypatch.setattr(fma, "_HOST", server.url(""))
        monkeypatch.setattr(fma, "_SHA1", {name: hashlib.sha1(zipped).hexdigest() for name, zipped in archives.items()})
        paths = ["--data", str(tmp_path / "new"), "--out", str(tmp_path / "corpus")]
        for _ in range(2):
            fma.main([*paths, "--download", *WORK])
        assert len(server.ranges) == 2
        assert len(Corpus.open(tmp_path / "corpus").items) == 3

        # Shards that start at the same time download once, and the archive is not unpacked over what others read.
        new = tmp_path / "other"
        new.mkdir()
        with (new / "fma_metadata-is-complete.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match=r"Another process is already downloading to .*other; wait"):
                fma.main(["--data", str(new), "--out", str(tmp_path / "of other"), "--download", "--shard", "0/2"])
        assert len(server.ranges) == 2


def test_the_published_counts():
    totals = {size: sum(counts.values()) for size, counts in fma.NUM_CLIPS.items()}
    assert totals == {"small": 8_000, "medium": 25_000, "large": 106_574}
