"""What `prepare` finds where the corpus shall be, and what it refuses to begin with."""

import dataclasses
import fcntl
import threading
from pathlib import Path

import pytest

from clmr_tf.config.shards import Shard
from clmr_tf.errors import UsageError
from pipelines.preparation.prepare import PrepareSettings, prepare, prepare_shard
from tests.pipelines.prepared_music import SETTINGS, bytes_of, planned, run, sources_in, write_songs

pytestmark = pytest.mark.usefixtures("no_workers")


def test_a_finished_corpus_is_used_again(tmp_path, caplog):
    names = write_songs(tmp_path / "music", 3)
    sources = sources_in(tmp_path / "music", *names)
    run(sources[:2], tmp_path / "corpus")
    before = bytes_of(tmp_path / "corpus")
    (tmp_path / "corpus/unfinished").mkdir()
    seen = []
    assert len(run(sources[:2], tmp_path / "corpus", on_progress=seen.append).items) == 2
    assert (seen, caplog.records) == ([], [])
    assert len(run(sources, tmp_path / "corpus").items) == 2
    assert "The list of files has changed since" in caplog.text
    assert bytes_of(tmp_path / "corpus") == before
    assert not (tmp_path / "corpus/unfinished").exists()


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (dataclasses.replace(SETTINGS, sample_rate_hz=16000), {"fractions": "a"}, "sample_rate_hz 22050, not 16000"),
        (dataclasses.replace(SETTINGS, reader="direct"), {"fractions": "a"}, "reader prepared, not direct"),
        (dataclasses.replace(SETTINGS, min_num_samples=40_000), {"fractions": "a"}, "fewer than the 40000"),
        (SETTINGS, {"fractions": "b"}, "fractions a, not b"),
        (SETTINGS, {}, "fractions a, not None"),
    ],
)
def test_a_corpus_of_other_settings_is_refused(tmp_path, settings, options, message):
    names = write_songs(tmp_path / "music", 1)
    run(sources_in(tmp_path / "music", *names), tmp_path / "corpus", options={"fractions": "a"})
    before = bytes_of(tmp_path / "corpus")
    with pytest.raises(UsageError, match=message):
        run(sources_in(tmp_path / "music", *names), tmp_path / "corpus", settings, options=options)
    assert bytes_of(tmp_path / "corpus") == before


def test_only_one_process_prepares_a_corpus(tmp_path):
    names = write_songs(tmp_path / "music", 2)
    (tmp_path / "corpus/unfinished").mkdir(parents=True)
    with (tmp_path / "corpus/unfinished/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="Another process is already preparing"):
            run(sources_in(tmp_path / "music", *names), tmp_path / "corpus")
    assert len(run(sources_in(tmp_path / "music", *names), tmp_path / "corpus").items) == 2


def test_two_preparations_at_once_make_one_corpus(tmp_path):
    names = write_songs(tmp_path / "music", 4)
    outcomes = []

    def attempt():
        try:
            outcomes.append(len(run(sources_in(tmp_path / "music", *names), tmp_path / "corpus").items))
        except UsageError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 4 in outcomes
    assert all(outcome == 4 or "Another process" in outcome for outcome in outcomes)


def test_folders_with_other_files_are_refused_and_unchanged(tmp_path):
    names = write_songs(tmp_path / "music", 1)
    (tmp_path / "file").write_text("mine")
    before = bytes_of(tmp_path)
    for destination, message in [("music", "contains other files"), ("file", "is a file"), ("file/below", "cannot be")]:
        with pytest.raises(UsageError, match=message):
            run(sources_in(tmp_path / "music", *names), tmp_path / destination)
    with pytest.raises(UsageError, match="cannot be written"):
        run(sources_in(tmp_path / "music", *names), Path("/proc/corpus"))
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("name", ["unfinished/x.ogg", "unfinished", "shards/x.ogg", "shards", "manifest.json"])
def test_folders_of_other_programs_are_refused_and_unchanged(tmp_path, name):
    names = write_songs(tmp_path / "music", 1)
    (tmp_path / "music" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "music" / name).write_text("mine")
    before = bytes_of(tmp_path)
    for num_shards in (1, 2):
        plan = planned(sources_in(tmp_path / "music", *names), tmp_path / "music")
        with pytest.raises(UsageError, match="contains other files and no corpus"):
            prepare(plan) if num_shards == 1 else prepare_shard(plan, Shard(0, num_shards))
    assert bytes_of(tmp_path) == before


def test_a_folder_in_a_corpus_with_the_name_of_the_work_folder_is_kept(tmp_path):
    names = write_songs(tmp_path / "music", 1)
    sources = sources_in(tmp_path / "music", *names)
    run(sources, tmp_path / "corpus")
    mine = tmp_path / "corpus/unfinished/x.ogg"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert len(run(sources, tmp_path / "corpus").items) == 1
    assert mine.read_text() == "mine"


def test_inconsistent_lists_are_refused(tmp_path):
    one, two = sources_in(tmp_path, "one", "two")
    for sources, message in [
        ([one, dataclasses.replace(two, item_id="one")], "Two files"),
        ([dataclasses.replace(one, split="training")], "training"),
        ([dataclasses.replace(one, tags=("jazz",))], "jazz"),
        ([one, dataclasses.replace(two, song_id="one", split="valid")], "two splits"),
    ]:
        with pytest.raises(UsageError, match=message):
            run(sources, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_rate_hz": 0},
        {"min_num_samples": 0},
        {"timeout_seconds": 0.0},
        {"num_workers": 0},
        {"max_skipped_fraction": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PrepareSettings(**wrong)
