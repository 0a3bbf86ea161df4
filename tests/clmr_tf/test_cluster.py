"""Shards on Ray: nodes that die, nodes that are refused, failures and Ctrl-C. Ray and all processes are real."""

import contextlib
import dataclasses
import fcntl
import os
import re
import secrets
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from clmr_tf import embed
from clmr_tf.cluster import ClusterOptions, ShardTask, run_on_cluster
from clmr_tf.console import run_command
from clmr_tf.data.corpus import MANIFEST_FILE, Corpus
from clmr_tf.errors import ClmrError, UsageError
from pipelines import folder
from tests.clmr_tf.inference.killed_embedding import content
from tests.synthetic import write_music

pytestmark = pytest.mark.starts_first

WORKER = ClusterOptions(cluster="auto", worker_memory_gb=0.1)
NUM_SHARDS = 8


@pytest.fixture(scope="module", autouse=True)
def settings_of_ray():
    """Ray reads these when it is imported."""
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_NUM_REDIS_GET_RETRIES": "1",
        # Ray lowers the priority of its workers, which would starve on a busy machine.
        "RAY_worker_niceness": "0",
        # A node that was killed refuses them at once, and is given up after five.
        "RAY_health_check_period_ms": "500",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(name, value)
        yield environment


@pytest.fixture(scope="module")
def nodes(settings_of_ray):
    """A Ray cluster with a token, whose first node has one CPU; tests add others."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    settings_of_ray.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


@contextlib.contextmanager
def added(nodes, num_cpus=1, **options):
    node = nodes.add_node(num_cpus=num_cpus, **options)
    try:
        yield node
    finally:
        with contextlib.suppress(KeyError, ValueError):
            nodes.remove_node(node, allow_graceful=False)


def processes_of(node) -> list[psutil.Process]:
    """The raylet of a node, its workers and their decoders."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet, *raylet.children(recursive=True)]


def tasks(count: int) -> list[ShardTask]:
    return [ShardTask(f"{number}/{count}", number, 1) for number in range(count)]


def contents(corpus_folder: Path) -> dict[str, bytes]:
    """The audio, one file after the other, and the index."""
    corpus = Corpus.open(corpus_folder)
    audio = b"".join((corpus_folder / file.file).read_bytes() for file in corpus.manifest.audio_files)
    return {"audio": audio} | {name: (corpus_folder / name).read_bytes() for name in ("index.parquet", "skipped.jsonl")}


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Some files for each shard, one of them no audio."""
    music = tmp_path_factory.mktemp("cluster") / "music"
    write_music(music, num_songs=2 * NUM_SHARDS)
    (music / "words.mp3").write_text("These are words and not music. " * 40)
    return music


@pytest.fixture(scope="module")
def plain(music):
    """The corpus of this music without a cluster."""
    folder.main([str(music), "--out", str(music.parent / "plain"), "--num-workers", "1"])
    return contents(music.parent / "plain")


def prepare_on_cluster(music: Path, corpus: Path) -> int:
    options = ["--cluster", "auto", "--num-shards", str(NUM_SHARDS), "--worker-memory-gb", "0.2"]
    return run_command(folder.main, [str(music), "--out", str(corpus), *options])


def finished_shards(corpus: Path) -> dict[Path, int]:
    """When their manifests were written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in corpus.glob(f"shards/*/{MANIFEST_FILE}")}


@contextlib.contextmanager
def killed_in_the_middle(nodes, finished):
    """A second node, which is killed while it decodes, once `finished()` returns some of the shards."""
    num_finished_at_kill = []

    def is_decoding(node) -> bool:
        # Raylet, its agents, a worker, and the worker's decoder, which has no children.
        workers = [process for process in processes_of(node) if "Worker" in process.name()]
        return any(worker.children() for worker in workers)

    def kill(node) -> None:
        while not num_finished_at_kill:
            with contextlib.suppress(psutil.NoSuchProcess):
                num_finished = len(list(finished()))
                if num_finished and is_decoding(node):
                    for process in processes_of(node):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.kill()
                    num_finished_at_kill.append(num_finished)
            time.sleep(0.01)

    with added(nodes) as second:
        threading.Thread(target=kill, args=[second], daemon=True).start()
        yield
    assert num_finished_at_kill and num_finished_at_kill[0] < NUM_SHARDS - 1


def test_a_corpus_has_the_same_bytes_if_a_node_is_killed_in_the_middle(nodes, music, plain, tmp_path):
    corpus = tmp_path / "corpus"
    with killed_in_the_middle(nodes, lambda: finished_shards(corpus)):
        assert prepare_on_cluster(music, corpus) == 0
    assert contents(corpus) == plain
    drafts = [path for path in corpus.rglob("*") if path.name == "unfinished" or path.name.startswith(".")]
    assert drafts == [] and len(finished_shards(corpus)) == NUM_SHARDS


def test_ctrl_c_leaves_whole_shards_and_the_next_start_waits_for_the_lock_of_a_lost_node(nodes, music, plain, tmp_path):
    corpus = tmp_path / "corpus"

    def interrupt():
        while len(finished_shards(corpus)) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert prepare_on_cluster(music, corpus) == 130
    before = finished_shards(corpus)
    assert 2 <= len(before) < NUM_SHARDS - 1 and not (corpus / MANIFEST_FILE).exists()

    # As a network file system does, which does not know yet that the node is lost.
    work = corpus / f"shards/{NUM_SHARDS - 1:05d}-of-{NUM_SHARDS:05d}/unfinished"
    work.mkdir(parents=True)
    num_finished_while_locked = []

    def hold(lock):
        while len(finished_shards(corpus)) < NUM_SHARDS - 1:
            time.sleep(0.01)
        time.sleep(2)
        num_finished_while_locked.append(len(finished_shards(corpus)))
        fcntl.flock(lock, fcntl.LOCK_UN)

    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Thread(target=hold, args=[lock], daemon=True).start()
        assert prepare_on_cluster(music, corpus) == 0
    assert num_finished_while_locked == [NUM_SHARDS - 1]
    assert contents(corpus) == plain
    assert before.items() <= finished_shards(corpus).items()


def test_a_table_has_the_same_bytes_if_a_node_is_killed_in_the_middle(nodes, tmp_path):
    music, plain, table = tmp_path / "music", tmp_path / "plain", tmp_path / "table"
    write_music(music, num_songs=NUM_SHARDS)
    options = [str(music), "--files-per-part", "1", "--runtime", "litert"]
    assert run_command(embed.main, [*options, "--out", str(plain)]) == 0
    with killed_in_the_middle(nodes, lambda: table.glob("shards/[0-9]*.json")):
        on_ray = ["--cluster", "auto", "--worker-memory-gb", "0.2"]
        assert run_command(embed.main, [*options, "--out", str(table), *on_ray]) == 0
    assert content(table) == content(plain) and len(list(table.glob("songs/*"))) == NUM_SHARDS


def test_a_node_with_another_version_is_left_out_or_refused_by_name(nodes, tmp_path, monkeypatch, caplog):
    (tmp_path / "clmr_tf").mkdir()
    (tmp_path / "clmr_tf" / "__init__.py").write_text('__version__ = "9.0"\n')

    # Ray's workers look for packages in the current folder of this process first.
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    refused = r"Node \S+ \([0-9.]+\) cannot be used: Its version of clmr_tf is 9.0, not "

    def open_worker():
        def run(number):
            (tmp_path / "begun").touch()
            deadline = time.monotonic() + 120
            while not (tmp_path / "refused").exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            return number

        return run

    def wait_until(is_true) -> None:
        deadline = time.monotonic() + 120
        while not is_true() and time.monotonic() < deadline:
            time.sleep(0.1)

    # Ray starts nodes in the main thread only.
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run_on_cluster, WORKER, open_worker, tasks(3), doing="Testing")
        wait_until((tmp_path / "begun").exists)
        with added(nodes, num_cpus=2, env_vars={"PYTHONPATH": str(tmp_path)}):
            wait_until(lambda: running.done() or re.search(refused, caplog.text))
            (tmp_path / "refused").touch()
            assert sorted(running.result()) == [0, 1, 2] and re.search(refused, caplog.text)
            # Only that node has a place for it.
            with pytest.raises(UsageError, match=refused):
                run_on_cluster(dataclasses.replace(WORKER, worker_cpus=2), lambda: abs, tasks(1), doing="Testing")


def test_a_worker_is_opened_once_and_warnings_are_shown_here(nodes, tmp_path, caplog):
    def open_worker():
        import logging

        with (tmp_path / "opened").open("a") as file:
            file.write("x")

        def run(number):
            logging.getLogger("clmr_tf").warning("%d is odd", number) if number % 2 else None
            return number**2

        return run

    assert sorted(run_on_cluster(WORKER, open_worker, tasks(5), doing="Testing")) == [0, 1, 4, 9, 16]
    assert (tmp_path / "opened").read_text() == "x"
    assert sorted(record.getMessage() for record in caplog.records) == ["1 is odd", "3 is odd"]


def test_a_failure_names_shard_and_node_and_is_not_repeated(nodes, tmp_path):
    def open_worker():
        def run(number):
            if number == 2:
                with (tmp_path / "tried").open("a") as file:
                    file.write("x")
                raise OSError(28, "No space left on device", "/data/part")
            return number

        return run

    with pytest.raises(ClmrError, match=r"^Shard 2/4 failed on node \S+ \([0-9.]+\): The disk is full \(/data/part\)"):
        run_on_cluster(WORKER, open_worker, tasks(4), doing="Testing")
    assert (tmp_path / "tried").read_text() == "x"


def test_a_shard_that_kills_its_workers_is_given_up(nodes, tmp_path):
    def open_worker():
        def run(number):
            if number == 1:
                with (tmp_path / "killed").open("a") as file:
                    file.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
            return number

        return run

    with pytest.raises(ClmrError, match=r"^Shard 1/3 ended 4 workers .*; use a larger --worker-memory-gb"):
        run_on_cluster(WORKER, open_worker, tasks(3), doing="Testing")
    assert (tmp_path / "killed").read_text() == "xxxx"


def test_lost_nodes_do_not_count_against_their_shard(nodes, tmp_path, monkeypatch):
    import ray

    def open_worker():
        def run(number):
            with (tmp_path / "tried").open("a") as file:
                file.write("x")
            if (tmp_path / "tried").stat().st_size <= 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return number

        return run

    # As after the loss of the node of each worker.
    monkeypatch.setattr(ray, "nodes", lambda: [])
    assert run_on_cluster(WORKER, open_worker, tasks(1), doing="Testing") == [0]
    assert (tmp_path / "tried").read_text() == "xxxxx"


def test_an_interrupt_ends_all_workers(nodes, tmp_path):
    def open_worker():
        def run(number):
            (tmp_path / f"begun {number}").write_text(str(os.getpid()))
            time.sleep(600)

        return run

    def interrupt():
        while not list(tmp_path.glob("begun *")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    assert run_command(lambda _: run_on_cluster(WORKER, open_worker, tasks(2), doing="Testing"), []) == 143
    (begun,) = tmp_path.glob("begun *")
    psutil.wait_procs([psutil.Process(pid) for pid in [int(begun.read_text())] if psutil.pid_exists(pid)], 30)
    assert not psutil.pid_exists(int(begun.read_text()))


def test_workers_that_fit_nowhere_are_refused(nodes):
    with pytest.raises(UsageError, match="too small for one worker: each needs 4096 CPU cores and 2 GB"):
        run_on_cluster(ClusterOptions(cluster="local", worker_cpus=4096), np.array, tasks(1), doing="Testing")


def test_a_cluster_that_does_not_run_is_one_sentence(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UsageError, match=r"cannot join a Ray cluster .*; start one with `ray start --head`"):
        run_on_cluster(WORKER, np.array, tasks(1), doing="Testing")
