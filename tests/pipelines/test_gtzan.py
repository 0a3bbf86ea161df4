import hashlib

import pytest

from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import UsageError
from pipelines import gtzan
from tests.pipelines.file_server import running_file_server
from tests.pipelines.published_data import SETTINGS, write_clip, write_lines

pytestmark = pytest.mark.usefixtures("no_workers")

LISTS = {
    "train": ["blues/blues.00029.wav", "rock/rock.00001.wav"],
    "valid": ["blues/blues.00000.wav"],
    "test": ["hiphop/hiphop.00099.wav"],
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(gtzan, "NUM_EXCERPTS", {split: len(lines) for split, lines in LISTS.items()})
    folder = tmp_path / "data"
    for split, lines in LISTS.items():
        write_lines(folder / f"{split}_filtered.txt", *lines)
    return folder


@pytest.mark.parametrize("suffix", ["wav", "au"])
def test_the_lists_are_the_split(data, tmp_path, suffix):
    for seed, line in enumerate(line for lines in LISTS.values() for line in lines):
        write_clip(data / "genres" / line.replace(".wav", f".{suffix}"), seed)
    corpus = gtzan.prepare_corpus(tmp_path / "corpus", SETTINGS, data)
    assert corpus.manifest.name == "gtzan-fault-filtered"
    assert corpus.manifest.tag_names == gtzan.GENRES
    assert [(item.id, item.split, item.tags) for item in corpus.items] == [
        ("blues/blues.00029", "train", ("blues",)),
        ("rock/rock.00001", "train", ("rock",)),
        ("blues/blues.00000", "valid", ("blues",)),
        ("hiphop/hiphop.00099", "test", ("hiphop",)),
    ]
    assert corpus.items[0].source == f"genres/blues/blues.00029.{suffix}"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["blues/blues.00000.wav"], "has 1 items in the split train instead of the published 2"),
        (["../blues.00000.wav", "rock/rock.00001.wav"], "instead of a name such as"),
        (["polka/polka.00000.wav", "rock/rock.00001.wav"], "instead of a name such as"),
        (["blues/blues.00000.wav", "rock/rock.00001.wav"], "Two files have the item id 'blues/blues.00000'"),
    ],
)
def test_unpublished_lists_are_refused(data, tmp_path, lines, sentence):
    write_lines(data / "train_filtered.txt", *lines)
    write_clip(data / "genres/blues/blues.00000.wav", 0)
    write_clip(data / "genres/rock/rock.00001.wav", 1)
    with pytest.raises(UsageError, match=sentence):
        gtzan.prepare_corpus(tmp_path / "corpus", SETTINGS, data)


def test_only_the_lists_are_fetched(data, tmp_path, monkeypatch):
    for seed, line in enumerate(line for lines in LISTS.values() for line in lines):
        write_clip(tmp_path / "new/genres" / line, seed)
    with running_file_server() as server:
        server.files = {path.name: path.read_bytes() for path in data.iterdir()}
        sums = {split: hashlib.sha256(server.files[f"{split}_filtered.txt"]).hexdigest() for split in LISTS}
        monkeypatch.setattr(gtzan, "_HOST", server.url(""))
        monkeypatch.setattr(gtzan, "_SHA256", sums)
        paths = ["--data", str(tmp_path / "new"), "--out", str(tmp_path / "corpus")]
        gtzan.main([*paths, "--download", "--min-num-samples", "11025", "--num-workers", "1"])
    assert len(Corpus.open(tmp_path / "corpus").items) == 4


def test_the_published_counts():
    assert gtzan.NUM_EXCERPTS == {"train": 443, "valid": 197, "test": 290}
    assert sum(gtzan.NUM_EXCERPTS.values()) == 930
