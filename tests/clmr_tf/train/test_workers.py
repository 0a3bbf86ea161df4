"""Two worker processes equal one device, and stop together when one is stopped, killed or stalled."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clmr_tf.train.checkpoints import list_checkpoints
from clmr_tf.train.run import train
from tests.clmr_tf.train.same_training import EVERYTHING, NUM_STEPS, PLAIN, assert_same_training, config_of, options_of
from tests.clmr_tf.train.training_runs import PATIENCE_SECONDS, metrics, start, starts, state, wait_for
from tests.synthetic import synthetic_corpus

pytestmark = [pytest.mark.starts_first, pytest.mark.usefixtures("tiny_network")]

FOREVER = 1_000_000
LOST = "error: Another worker was lost at step {}. The state after step {} is saved; start all workers again to"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    return synthetic_corpus(folder, num_songs={"train": 20}, tag_names=("a", "b"))


def free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in found]


@contextlib.contextmanager
def two_workers(corpus, workdir: Path, *, first_job="worker", **settings) -> Iterator[list[subprocess.Popen]]:
    """Starts both workers and kills them at the end. A first job of "chief" is separate from the workers' job."""
    cluster, tasks = {}, []
    for job, address in zip((first_job, "worker"), free_addresses(2), strict=True):
        tasks.append({"type": job, "index": len(cluster.setdefault(job, []))})
        cluster[job].append(address)
    environments = [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]
    with started(corpus, workdir, environments, **settings) as workers:
        yield workers


def slurm_tasks(scontrol: Path) -> list[dict[str, str]]:
    """The variables of the two tasks of a job step on this machine."""
    step = {
        "PATH": f"{scontrol}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
    }
    return [{**step, "SLURM_LOCALID": str(index)} for index in range(2)]


@contextlib.contextmanager
def started(corpus, workdir: Path, environments: list[dict[str, str]], **settings) -> Iterator[list[subprocess.Popen]]:
    """Starts a worker in each environment and kills them at the end."""
    options = options_of(corpus, workdir, strategy="multi_worker", **{"checkpoint_every": 2, **settings})
    workers = []
    try:
        for environment in environments:
            workers.append(start(options, **environment))
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.communicate()


def errors_of(worker: subprocess.Popen) -> list[str]:
    """Waits for a worker to end and returns its error messages."""
    _, errors = worker.communicate(timeout=PATIENCE_SECONDS)
    assert "Traceback" not in errors
    return [line for line in errors.splitlines() if line.startswith("error: ")]


def wait_for_steps(workdir: Path, num_steps: int, workers: list[subprocess.Popen]) -> None:
    before, num_starts = len(metrics(workdir)), len(starts(workdir))
    wait_for(lambda: len(starts(workdir)) > num_starts and len(metrics(workdir)) >= before + num_steps, workers[0])


def newest_step(workdir: Path) -> int:
    return int(list_checkpoints(workdir / "checkpoints")[0].name.removeprefix("step-"))


def interrupt(corpus, workdir: Path, settings: dict, number: signal.Signals, index: int) -> None:
    """Lets both take some steps, sends one a signal, and asserts how both end."""
    # A chief counts as the first worker.
    with two_workers(corpus, workdir, first_job="chief", steps=FOREVER, **settings) as workers:
        wait_for_steps(workdir, 3, workers)
        sent = time.monotonic()
        workers[index].send_signal(number)
        other = errors_of(workers[1 - index])
        # TensorFlow's heartbeat takes ten seconds; the rest is for a busy machine.
        assert time.monotonic() - sent < 120
        saved, logged = newest_step(workdir), metrics(workdir)[-1]["step"]
        if number == signal.SIGTERM:
            assert [worker.wait(PATIENCE_SECONDS) for worker in workers] == [143, 143]
            sentence = f"error: Stopped after step {saved}, which is saved; the same command resumes the run."
            assert other == errors_of(workers[index]) == [sentence] and saved == logged
        else:
            assert workers[1 - index].returncode == 1
            is_chief = index == 0
            # A chief may be lost between saving its last checkpoint and reporting it.
            last_heard_of = (saved, saved - 2) if is_chief else (saved,)
            expected = [
                LOST.format(logged + ahead, heard_of)
                for ahead in range(3 if is_chief else 2)
                for heard_of in last_heard_of
            ]
            assert len(other) == 1 and other[0].startswith(tuple(expected)), (other, logged, saved)
            assert 0 <= logged - saved < (3 if is_chief else 2)


def processes_that_logged(workdir: Path) -> set[int]:
    # events.out.tfevents.TIME.HOST.PROCESS.NUMBER.v2
    return {int(path.name.removesuffix(".v2").split(".")[-2]) for path in (workdir / "tensorboard").glob("*.v2")}


@pytest.mark.parametrize(
    ("augmentation", "signals"),
    [
        ("only-noise", [(signal.SIGKILL, 1)]),
        pytest.param(
            "released",
            [(signal.SIGTERM, 1), (signal.SIGSTOP, 1), (signal.SIGKILL, 0), (signal.SIGTERM, 0), (signal.SIGSTOP, 0)],
            marks=pytest.mark.soak,
        ),
    ],
    ids=["one kill", "all signals to both"],
)
def test_interrupted_two_workers_equal_one_device(corpus, scontrol, tmp_path, augmentation, signals):
    settings = {**PLAIN, "augmentation": augmentation}
    for number, index in signals:
        interrupt(corpus, tmp_path / "two", settings, number, index)
    num_steps = max(NUM_STEPS, len(metrics(tmp_path / "two")) + 2)
    # Slurm's tasks resume the run of TF_CONFIG's workers.
    with started(corpus, tmp_path / "two", slurm_tasks(scontrol), steps=num_steps, **settings) as workers:
        train(config_of(corpus, tmp_path / "one", strategy="single", steps=num_steps, **settings))
        assert [errors_of(worker) for worker in workers] == [[], []]
        assert [worker.returncode for worker in workers] == [0, 0]
        processes = processes_that_logged(tmp_path / "two")
        # Only the chief writes.
        assert workers[0].pid in processes and workers[1].pid not in processes
        assert len(processes) == len(starts(tmp_path / "two")) == len(signals) + 1
        devices = {"strategy": "multi_worker", "num_replicas": 2, "num_workers": 2}
        assert devices.items() <= starts(tmp_path / "two")[0].items()
    assert_same_training(tmp_path / "one", tmp_path / "two", rtol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize(("settings", "rtol"), [(PLAIN, 1e-5), (EVERYTHING, 1e-4)], ids=["plain", "everything"])
def test_two_workers_equal_one_device_and_resume_bit_identically(corpus, tmp_path, settings, rtol):
    train(config_of(corpus, tmp_path / "one", strategy="single", **settings))
    for steps in ([NUM_STEPS], [4, NUM_STEPS]):
        workdir = tmp_path / f"{len(steps)} starts"
        for num_steps in steps:
            with two_workers(corpus, workdir, **{**settings, "steps": num_steps}) as workers:
                assert [errors_of(worker) for worker in workers] == [[], []]
                assert [worker.returncode for worker in workers] == [0, 0]
        assert_same_training(tmp_path / "one", workdir, rtol=rtol)
    through, resumed = state(tmp_path / "1 starts"), state(tmp_path / "2 starts")
    assert [name for name in through if through[name].tobytes() != resumed[name].tobytes()] == []
    files = [(tmp_path / f"{number} starts" / "metrics.jsonl").read_bytes() for number in (1, 2)]
    assert files[0] == files[1]
