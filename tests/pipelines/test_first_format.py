"""Corpora of the first format, which had index.jsonl, one audio.pcm and tasks in JSON."""

import dataclasses
import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.console import run_command
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import pair_dataset
from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.data.tasks import CorpusTask, Label, write_task
from clmr_tf.errors import UsageError
from pipelines import merge
from tests.synthetic import synthetic_corpus

ROOT = Path(__file__).parents[2]
NUM_SAMPLES = 5000
LABELS = {"item-1": Label("train", ("folk", "rock")), "item-0": Label("test", ())}
TASK = CorpusTask("genre", "by ear ♥", ("rock", "folk"), False, LABELS)


@pytest.fixture
def corpus(tmp_path):
    """A corpus of this format, with a task."""
    songs = {"train": 4, "valid": 2}
    made = synthetic_corpus(tmp_path / "new", num_songs=songs, num_samples=NUM_SAMPLES, tag_names=("a", "b"))
    write_task(TASK, made.folder)
    return made


@pytest.fixture
def old(corpus, tmp_path):
    """The same corpus as version 1.0 of this package wrote it."""
    folder = tmp_path / "old"
    (folder / "tasks").mkdir(parents=True)
    rows = [{**dataclasses.asdict(item), "file": "audio.pcm"} for item in corpus.items]
    index = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
    (folder / "index.jsonl").write_bytes(index)
    (folder / "audio.pcm").write_bytes((corpus.folder / corpus.manifest.audio_files[0].file).read_bytes())
    manifest = {**dataclasses.asdict(corpus.manifest), "fingerprint": hashlib.sha256(index).hexdigest()}
    manifest["format_version"] = 1
    del manifest["index_sha256"], manifest["audio_files"]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    task = json.dumps({"format": 1, **dataclasses.asdict(TASK)}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / "tasks/genre.json").write_text(task)
    return folder


def stream_of(corpus):
    batches = pair_dataset(corpus, "train", batch_size=2, clip_num_samples=1000, seed=3).take(6)
    return [batch[name] for batch in batches.as_numpy_iterator() for name in ("clips", "seeds", "item")]


def test_a_converted_corpus_has_the_same_fingerprints_and_stream(old, corpus, tmp_path, capsys):
    with pytest.raises(UsageError, match=rf"older version; convert it with `python -m pipelines.merge {old}`, which"):
        Corpus.open(old)
    with pytest.raises(UsageError, match="convert it with"):
        resolve_corpus(str(old), corpora=tmp_path, sample_rate_hz=22050, clip_num_samples=1000)
    fingerprint = json.loads((old / "manifest.json").read_text())["fingerprint"]
    task_sha256 = hashlib.sha256((old / "tasks/genre.json").read_bytes()).hexdigest()
    audio = (old / "audio.pcm").stat()
    merge.main([str(old)])
    assert capsys.readouterr().out.startswith(f"{old}: 6 items (4 train, 2 valid)")
    assert (old / "audio.pcm").stat() == audio
    assert sorted(str(path.relative_to(old)) for path in old.rglob("*") if path.is_file()) == [
        *("audio.pcm", "index.parquet", "manifest.json", "tasks/genre.parquet")
    ]
    converted = Corpus.open(old)
    assert converted.manifest.fingerprint == fingerprint == corpus.manifest.fingerprint
    of_task = hashlib.sha256(f"{fingerprint} {task_sha256}".encode()).hexdigest()
    assert converted.for_task("genre").manifest.fingerprint == of_task
    assert list(converted.items) == list(corpus.items)
    assert [(item.id, item.split, item.tags) for item in converted.for_task("genre").items] == [
        ("item-0", "test", ()),
        ("item-1", "train", ("folk", "rock")),
    ]
    for received, wanted in zip(stream_of(converted), stream_of(corpus), strict=True):
        np.testing.assert_array_equal(received, wanted)


def test_a_conversion_killed_before_any_file_access_is_finished_by_the_next(old, corpus, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    script = [sys.executable, "-m", "tests.pipelines.killed_command", "merge", old, work]
    subprocess.run(script, cwd=ROOT, check=True, capture_output=True, text=True)
    folders = [path for path in work.iterdir() if path.is_dir()]
    assert len(folders) > 10
    for folder in folders:
        merge.main([str(folder)])
        converted = Corpus.open(folder)
        assert list(converted.items) == list(corpus.items)
        assert converted.for_task("genre").task.description == "by ear ♥"
        assert not list(folder.rglob("*.json*"))[1:], "only the manifest is left"


def test_a_full_disk_does_not_condemn_the_corpus(old, corpus, monkeypatch, capfd):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(old / "index.parquet"))

    with monkeypatch.context() as patch:
        patch.setattr("clmr_tf.data.corpus.write_index", fail)
        assert run_command(merge.main, [str(old)]) == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"error: The disk is full ({old}/index.parquet); free")
    merge.main([str(old)])
    assert list(Corpus.open(old).items) == list(corpus.items)


@pytest.mark.parametrize("name", ["index.jsonl", "audio.pcm", "manifest.json", "tasks/genre.json"])
def test_damaged_corpora_are_not_converted(old, name):
    (old / name).write_bytes((old / name).read_bytes()[:-2])
    before = {path: path.read_bytes() for path in old.rglob("*.json*")}
    with pytest.raises(UsageError, match=r"cannot be converted|instead of"):
        merge.main([str(old)])
    assert {path: path.read_bytes() for path in old.rglob("*.json*")} == before
