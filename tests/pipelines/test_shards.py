"""Shards of a corpus, made anywhere and in any order, and the corpus that is made of them."""

import fcntl
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.audio import decoding
from clmr_tf.config.shards import Shard
from clmr_tf.console import run_command
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import pair_dataset
from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.errors import ClmrError, UsageError
from pipelines import gtzan, merge
from pipelines.folder import FolderSettings, main, plan_corpus, prepare_corpus
from pipelines.preparation import journal, prepare
from pipelines.preparation.prepare import prepare_shard
from tests.pipelines.conftest import run_in_this_process
from tests.pipelines.published_data import SETTINGS, write_clip, write_lines

ROOT = Path(__file__).parents[2]
OPTIONS = ["--min-num-samples", "11025", "--num-workers", "1", "--valid-fraction", "0.25", "--tags", "folder"]
FRACTIONS = FolderSettings(valid_fraction=0.25, tags="folder")

pytestmark = pytest.mark.usefixtures("no_workers")


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Twenty files, five of them copies of files in other shards, one broken, one that is no audio, and a picture."""
    folder = tmp_path_factory.mktemp("shared") / "music"
    for number in range(20):
        write_clip(folder / ("ab"[number % 2]) / f"{number:02d}.flac", seed=number % 15)
    (folder / "a/07.broken.wav").write_bytes(b"\0" * 100)
    (folder / "b/page.mp3").write_text("<html>Not found</html>")
    (folder / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


@pytest.fixture(scope="module")
def whole(music):
    """The corpus that one process prepares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "run_in_workers", run_in_this_process)
        return prepare_corpus(music, music.parent / "whole", SETTINGS, FRACTIONS)


def shard(music, corpus, number, num_shards, *options):
    main([str(music), "--out", str(corpus), *OPTIONS, *options, "--shard", f"{number}/{num_shards}"])


@pytest.fixture
def two_shards(music, tmp_path):
    """Both of two shards, not merged."""
    for number in range(2):
        shard(music, tmp_path / "corpus", number, 2)
    return tmp_path / "corpus"


def audio_of(corpus: Corpus) -> bytes:
    return b"".join((corpus.folder / file.file).read_bytes() for file in corpus.manifest.audio_files)


def stream_of(corpus: Corpus) -> list[np.ndarray]:
    batches = pair_dataset(corpus, "train", batch_size=4, clip_num_samples=5000, seed=3).take(5)
    return [batch[name] for batch in batches.as_numpy_iterator() for name in ("clips", "seeds", "item")]


def assert_same_corpus(corpus: Corpus, expected: Corpus):
    for name in ("index.parquet", "skipped.jsonl"):
        assert (corpus.folder / name).read_bytes() == (expected.folder / name).read_bytes(), name
    assert audio_of(corpus) == audio_of(expected)
    assert corpus.manifest.fingerprint == expected.manifest.fingerprint
    for received, wanted in zip(stream_of(corpus), stream_of(expected), strict=True):
        np.testing.assert_array_equal(received, wanted)


@pytest.mark.parametrize(("num_shards", "max_file_num_samples"), [(3, 2**34), (16, 2**34), (40, 2**34), (2, 40_000)])
def test_any_number_of_shards_in_any_order_makes_the_same_corpus(
    music, whole, tmp_path, monkeypatch, num_shards, max_file_num_samples
):
    monkeypatch.setattr(journal, "MAX_FILE_NUM_SAMPLES", max_file_num_samples)
    numbers = list(range(num_shards))
    random.Random(num_shards).shuffle(numbers)
    for number in numbers:
        shard(music, tmp_path / "corpus", number, num_shards)
    assert len(list((tmp_path / "corpus").rglob("*.pcm"))) == {3: 3, 16: 15, 40: 20, 2: 10}[num_shards]
    merge.main([str(tmp_path / "corpus")])
    assert_same_corpus(Corpus.open(tmp_path / "corpus"), whole)


def test_copies_in_different_shards_are_one_song_of_one_split(whole):
    by_digest = {}
    for item in whole.items:
        by_digest.setdefault(item.digest, []).append(item)
    assert sorted(map(len, by_digest.values())) == [1] * 10 + [2] * 5
    for items in by_digest.values():
        assert len({(item.song_id, item.split) for item in items}) == 1
    assert whole.manifest.num_songs == {"train": 11, "valid": 4}


@pytest.mark.usefixtures("whole")
def test_several_workers_change_no_byte(music, whole, tmp_path, monkeypatch):
    monkeypatch.undo()
    settings = prepare.PrepareSettings(min_num_samples=11025, num_workers=2)
    plan = plan_corpus(music, tmp_path / "corpus", settings, FRACTIONS)
    summaries = [prepare_shard(plan, Shard(number, 2)) for number in range(2)]
    assert [summary.num_files for summary in summaries] == [11, 11]
    assert [summary.num_skipped for summary in summaries] == [{"unreadable": 1}, {"not_audio": 1}]
    assert sum(summary.audio_seconds for summary in summaries) == pytest.approx(20 * 0.8, rel=0.01)
    merge.main([str(tmp_path / "corpus")])
    assert_same_corpus(Corpus.open(tmp_path / "corpus"), whole)


def test_a_finished_shard_is_not_prepared_again(music, two_shards, monkeypatch, capsys):
    monkeypatch.delattr(prepare, "run_in_workers")
    capsys.readouterr()
    shard(music, two_shards, 0, 2)
    folder = two_shards / "shards/00000-of-00002"
    assert capsys.readouterr().out == (
        f"{folder}: 11 files, 0.00 hours of audio; left out: 1 unreadable. "
        f"When all shards are finished, run `python -m pipelines.merge {two_shards}`.\n"
    )
    merge.main([str(two_shards)])
    before = {path: path.stat().st_mtime_ns for path in two_shards.rglob("*")}
    shard(music, two_shards, 0, 2)
    merge.main([str(two_shards)])
    assert {path: path.stat().st_mtime_ns for path in two_shards.rglob("*")} == before


def test_missing_and_unfinished_shards_are_named(music, tmp_path):
    corpus = tmp_path / "corpus"
    for number in (0, 3):
        shard(music, corpus, number, 5)
    (corpus / "shards/00002-of-00005/unfinished").mkdir(parents=True)
    with pytest.raises(
        UsageError,
        match=r"lacks the shards 1/5, 2/5, 4/5; finish each with --shard and merge",
    ):
        merge.main([str(corpus)])
    for open_corpus in (Corpus.open, lambda path: resolve_corpus(str(path), corpora=tmp_path, **CLIP)):
        with pytest.raises(UsageError, match=rf"has shards that are not merged; run `.*pipelines.merge {corpus}`"):
            open_corpus(corpus)
    assert not (corpus / "manifest.json").exists() and not (corpus / "index.parquet").exists()


CLIP = {"sample_rate_hz": 22050, "clip_num_samples": 11025}


def test_shards_that_were_made_differently_are_named(music, two_shards, tmp_path, monkeypatch):
    def refused(what):
        with pytest.raises(UsageError, match=rf"shards 2/3 of .* not belong to 0/3, 1/3: .* made with {what}; delete"):
            merge.main([str(corpus)])
        assert not (corpus / "manifest.json").exists()
        shutil.rmtree(corpus / "shards/00002-of-00003")

    corpus = tmp_path / "three"
    for number in range(2):
        shard(music, corpus, number, 3)
    shard(music, corpus, 2, 3, "--sample-rate-hz", "16000")
    refused("sample_rate_hz 16000 instead of 22050")
    shard(music, corpus, 2, 3, "--valid-fraction", "0.5")
    refused("valid_fraction 0.5 instead of 0.25")
    changed = shutil.copytree(music, tmp_path / "music")
    (changed / "a/01.flac").write_bytes((changed / "a/00.flac").read_bytes())
    shard(changed, corpus, 2, 3)
    refused("another list of files")
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "__version__", "9.9.9")
        shard(music, corpus, 2, 3)
    refused("clmr_tf 9.9.9 instead of .*")
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "decoder_versions", lambda: {**DECODERS, "soxr": "0"})
        shard(music, corpus, 2, 3)
    refused("soxr 0 instead of .*")
    shard(music, corpus, 2, 3)
    merge.main([str(corpus)])

    # A finished shard is not replaced by one with other settings, and a corpus is not divided in two ways.
    with pytest.raises(UsageError, match="was prepared with sample_rate_hz 22050 instead of 16000; delete that folder"):
        shard(music, two_shards, 0, 2, "--sample-rate-hz", "16000")
    for others in (["--shard", "0/3"], []):
        with pytest.raises(UsageError, match="has shards of another division, such as 00000-of-00002; finish"):
            main([str(music), "--out", str(two_shards), *OPTIONS, *others])


DECODERS = prepare.decoder_versions()


def test_shards_that_differ_from_most_others_are_not_blamed(music, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus"
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "decoder_versions", lambda: {**DECODERS, "soxr": "0"})
        for number in range(3):
            shard(music, corpus, number, 4)
    shard(music, corpus, 3, 4)
    with pytest.raises(UsageError, match=r"shards 3/4 of .* do not belong to 0/4, 1/4, 2/4: .* those that are out of"):
        merge.main([str(corpus)])


def test_a_song_that_changes_spoils_no_other_shard(music, tmp_path, monkeypatch):
    changing, corpus = shutil.copytree(music, tmp_path / "music"), tmp_path / "corpus"
    shard(changing, corpus, 0, 3)
    append, num_decoded = journal.GrowingAudio.append, []

    def append_three(audio, part):
        if len(num_decoded) == 3:
            raise KeyboardInterrupt
        num_decoded.append(part)
        append(audio, part)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(journal.GrowingAudio, "append", append_three)
        shard(changing, corpus, 1, 3)
    write_clip(changing / "b/19.flac", seed=77, rate_hz=8000)
    # The finished one does nothing, and the other one continues.
    with monkeypatch.context() as patch:
        patch.delattr(prepare, "run_in_workers")
        shard(changing, corpus, 0, 3)
    decoded = []
    with monkeypatch.context() as patch:
        patch.setattr(journal.GrowingAudio, "append", lambda *both: (decoded.append(both), append(*both)))
        shard(changing, corpus, 1, 3)
    assert len(decoded) == 7 - 3
    shard(changing, corpus, 2, 3)
    merge.main([str(corpus)])
    main([str(changing), "--out", str(tmp_path / "whole"), *OPTIONS])
    assert_same_corpus(Corpus.open(corpus), Corpus.open(tmp_path / "whole"))


def test_no_shard_of_a_finished_corpus_is_given_up(music, two_shards, tmp_path):
    changed = shutil.copytree(music, tmp_path / "music")
    merge.main([str(two_shards)])
    write_clip(changed / "b/19.flac", seed=77, rate_hz=8000)
    shard(changed, two_shards, 1, 2)
    write_clip(changed / "a/new.flac", seed=78)
    before = audio_of(Corpus.open(two_shards))
    for number, num_shards, what in [(1, 2, "another list of files"), (0, 3, "another number of shards")]:
        with pytest.raises(UsageError, match=rf"^{two_shards} holds a finished corpus, .* with {what}; ") as refused:
            shard(changed, two_shards, number, num_shards)
        assert "/shards" not in str(refused.value)
    assert audio_of(Corpus.open(two_shards)) == before


def test_a_cluster_gets_the_files_of_a_shard_with_the_shard(music, whole, tmp_path, monkeypatch):
    sizes = {}

    def run_here(options, open_worker, tasks, doing):
        sizes[len(tasks)] = [len(pickle.dumps(one)) for one in (open_worker, *tasks)]
        run = pickle.loads(pickle.dumps(open_worker))()
        return [run(pickle.loads(pickle.dumps(task.argument))) for task in reversed(tasks)]

    monkeypatch.setattr(prepare, "run_on_cluster", run_here)
    for num_shards in (2, 11):
        corpus = tmp_path / str(num_shards)
        main([str(music), "--out", str(corpus), *OPTIONS, "--cluster", "auto", "--num-shards", str(num_shards)])
        assert_same_corpus(Corpus.open(corpus), whole)
    assert sizes[2][0] == sizes[11][0] < 500
    assert max(sizes[11][1:]) < min(sizes[2][1:])


def test_a_cluster_goes_on_with_the_shards_that_are_there(music, whole, tmp_path, monkeypatch, caplog):
    corpus = tmp_path / "corpus"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(journal.GrowingAudio, "append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        main([str(music), "--out", str(corpus), *OPTIONS])
    monkeypatch.setattr(
        prepare,
        "run_on_cluster",
        lambda options, open_worker, tasks, doing: [open_worker()(task.argument) for task in tasks],
    )
    main([str(music), "--out", str(corpus), *OPTIONS, "--cluster", "auto"])
    assert f"{corpus}/shards was begun with another number of shards, 1, and at most as many workers" in caplog.text
    assert_same_corpus(Corpus.open(corpus), whole)


def test_nodes_with_other_decoders_are_refused(music, tmp_path, monkeypatch):
    def open_there(options, open_worker, tasks, doing):
        monkeypatch.setattr(decoding, "decoder_versions", lambda: {**DECODERS, "soxr": "0"})
        open_worker()

    monkeypatch.setattr(prepare, "run_on_cluster", open_there)
    with pytest.raises(UsageError, match=rf"^Its version of soxr is 0, not {DECODERS['soxr']}; install the same\.$"):
        main([str(music), "--out", str(tmp_path / "corpus"), *OPTIONS, "--cluster", "auto"])


@pytest.mark.parametrize("name", ["audio-00000.pcm", "index.parquet", "skipped.jsonl", "manifest.json"])
def test_damaged_shards_are_refused(two_shards, name):
    path = two_shards / "shards/00001-of-00002" / name
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UsageError, match=rf"00001-of-00002/{name}.*; delete (.*00001-of-00002|its folder) and prepare"):
        merge.main([str(two_shards)])
    assert not (two_shards / "manifest.json").exists()


def test_a_shard_waits_for_the_lock_of_a_lost_machine(music, two_shards):
    folder = two_shards / "shards/00001-of-00002"
    (folder / "manifest.json").unlink()
    (folder / "unfinished").mkdir()
    with (folder / "unfinished/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(0.3, fcntl.flock, [lock.fileno(), fcntl.LOCK_UN]).start()
        shard(music, two_shards, 1, 2)
    assert (folder / "manifest.json").exists()


def test_only_one_process_merges_a_corpus_or_prepares_a_shard(music, two_shards, monkeypatch):
    monkeypatch.setattr(prepare, "LOCK_TIMEOUT_SECONDS", 0.1)
    (two_shards / "unfinished").mkdir()
    with (two_shards / "unfinished/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="Another process is already preparing"):
            merge.main([str(two_shards)])
    folder = two_shards / "shards/00001-of-00002"
    (folder / "manifest.json").unlink()
    (folder / "unfinished").mkdir()
    with (folder / "unfinished/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=r"Another process is already preparing .*00001-of-00002"):
            shard(music, two_shards, 1, 2)
    shard(music, two_shards, 1, 2)
    merge.main([str(two_shards)])


def test_a_merge_killed_before_any_file_access_publishes_all_or_nothing(two_shards, whole, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    script = [sys.executable, "-m", "tests.pipelines.killed_command", "merge", two_shards, work]
    steps = subprocess.run(script, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    steps = [step for step in steps if not step.startswith(str(work))]
    finishing = steps.index("os.rename /unfinished/.manifest.json.draft") + 1
    for corpus in sorted(work.iterdir()):
        if corpus.is_dir() and corpus.name != "0":
            published = (corpus / "manifest.json").exists()
            assert published == (int(corpus.name) > finishing), corpus.name
            if not published:
                with pytest.raises(UsageError, match="has shards that are not merged"):
                    Corpus.open(corpus)
            merge.main([str(corpus)])
            assert (corpus / "index.parquet").read_bytes() == (whole.folder / "index.parquet").read_bytes()


def test_too_many_unusable_files_are_counted_over_all_shards(tmp_path):
    music, corpus = tmp_path / "music", tmp_path / "corpus"
    for number in range(3):
        write_clip(music / f"{number}.flac", number)
        (music / f"{number}.broken.wav").write_bytes(b"\0" * 100)
    for number in range(3):
        shard(music, corpus, number, 3, "--tags", "none")
    with pytest.raises(ClmrError, match=r"3 of 6 audio files cannot be used .* --max-skipped-fraction 0\.5"):
        merge.main([str(corpus), "--max-skipped-fraction", "0.4"])
    merge.main([str(corpus)])
    assert len(Corpus.open(corpus).items) == 3


@pytest.mark.parametrize("wrong", ["16/16", "-1/3", "3", "a/b", "1/0"])
def test_shards_that_do_not_exist_are_refused(music, tmp_path, wrong):
    with pytest.raises(UsageError, match="--shard must be K/N, with K from 0 to N - 1"):
        main([str(music), "--out", str(tmp_path / "corpus"), f"--shard={wrong}"])


def test_merging_nothing_is_one_sentence(tmp_path, capfd):
    assert run_command(merge.main, [str(tmp_path)]) == 2
    assert "has neither shards nor a corpus" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_published_corpora_have_shards_too(tmp_path, monkeypatch):
    lines = [f"blues/blues.{number:05d}.wav" for number in range(6)]
    splits = {"train": lines[:3], "valid": lines[3:5], "test": lines[5:]}
    monkeypatch.setattr(gtzan, "NUM_EXCERPTS", {split: len(names) for split, names in splits.items()})
    for split, names in splits.items():
        write_lines(tmp_path / f"data/{split}_filtered.txt", *names)
    for seed, name in enumerate(lines[:5]):
        write_clip(tmp_path / "data/genres" / name, seed)
    options = ["--data", str(tmp_path / "data"), "--min-num-samples", "11025"]
    for out, of_shard in (("whole", []), ("corpus", ["--shard", "1/2"]), ("corpus", ["--shard", "0/2"])):
        gtzan.main([*options, "--out", str(tmp_path / out), *of_shard])
    merge.main([str(tmp_path / "corpus")])
    for name in ("index.parquet", "skipped.jsonl"):
        assert (tmp_path / "corpus" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert Corpus.open(tmp_path / "corpus").manifest.num_skipped == {"missing": 1}


def test_the_direct_reader_has_shards_too(music, tmp_path):
    options = ["--reader", "direct"]
    for number in range(2):
        shard(music, tmp_path / "corpus", number, 2, *options)
    main([str(music), "--out", str(tmp_path / "whole"), *OPTIONS, *options])
    merge.main([str(tmp_path / "corpus")])
    assert (tmp_path / "corpus/index.parquet").read_bytes() == (tmp_path / "whole/index.parquet").read_bytes()
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.items[0].file == os.fspath(music / "a/00.flac") and len(corpus.items) == 20

    # The index has the paths, so all shards must see the music under the same one.
    elsewhere = shutil.copytree(music, tmp_path / "mounted" / "music")
    for number, folder in enumerate([music, elsewhere]):
        main([str(folder), "--out", str(tmp_path / "two"), *OPTIONS, *options, "--shard", f"{number}/2"])
    with pytest.raises(UsageError, match=rf"shards 1/2 .* first_file {elsewhere}/a/00.flac instead of {music}/a/00"):
        merge.main([str(tmp_path / "two")])
