import contextlib
import multiprocessing.spawn
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from clmr_tf.audio.decoding import UnreadableAudioError, load_audio
from clmr_tf.audio.isolation import WorkerCrashError, WorkerStartError, WorkerTimeoutError, run_in_workers
from tests.clmr_tf.audio import worker_functions

ROOT = Path(__file__).parents[3]
# Only a fault makes a test wait this long, so a busy machine may be slow.
LONG_SECONDS = 300.0


def run(function, tasks, num_workers=2, timeout_seconds=LONG_SECONDS):
    return list(run_in_workers(function, tasks, num_workers=num_workers, timeout_seconds=timeout_seconds))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_the_order_of_the_tasks(num_workers):
    outcomes = run(worker_functions.square, range(100), num_workers)
    assert [outcome.result for outcome in outcomes] == [number**2 for number in range(100)]
    assert all(outcome.error is None for outcome in outcomes)


def test_no_tasks_start_no_workers():
    before = len(psutil.Process().children())
    assert run(worker_functions.square, []) == []
    assert len(psutil.Process().children()) <= before


def test_every_failure_stays_with_its_task(capfd):
    tasks = [
        ("work", 1.0),
        ("exit", 3.0),
        ("segfault", 0.0),
        ("raise", 5.0),
        ("raise unpicklable", 0.0),
        ("killed", 0.0),
        ("print", 7.0),
        ("work", 8.0),
    ]
    outcomes = run(worker_functions.misbehave, tasks)
    assert [outcome.result for outcome in outcomes] == [1.0, None, None, None, None, None, 7.0, 8.0]
    errors = [outcome.error for outcome in outcomes]
    assert [type(error) for error in errors] == [
        type(None),
        WorkerCrashError,
        WorkerCrashError,
        ValueError,
        RuntimeError,
        WorkerCrashError,
        type(None),
        type(None),
    ]
    assert "exit code 3" in str(errors[1])
    assert f"exit code {-signal.SIGSEGV}" in str(errors[2])
    assert str(errors[3]) == "number 5"
    assert "UnpicklableError" in str(errors[4])
    assert capfd.readouterr() == ("", "")


def test_a_task_over_the_time_limit_does_not_affect_others():
    # The limit is that of the others too, which take a millisecond.
    outcomes = run(worker_functions.misbehave, [("work", 1.0), ("sleep", 3600.0), ("work", 3.0)], timeout_seconds=4.0)
    assert [outcome.result for outcome in outcomes] == [1.0, None, 3.0]
    assert [type(outcome.error) for outcome in outcomes] == [type(None), WorkerTimeoutError, type(None)]
    assert "longer than 4 seconds" in str(outcomes[1].error)


def test_a_task_whose_worker_dies_once_is_repeated(tmp_path):
    outcome = run(worker_functions.die_once, [tmp_path / "marker"])[0]
    assert (outcome.result, outcome.error) == ("survived", None)


def test_workers_ignore_ctrl_c():
    outcome = run(worker_functions.misbehave, [("interrupted", 2.0)])[0]
    assert (outcome.result, outcome.error) == (2.0, None)


def test_an_error_keeps_its_attributes_between_processes(tmp_path):
    path = tmp_path / "noise.wav"
    path.write_bytes(b"\0" * 100)
    error = run(load_at_22050, [path])[0].error
    assert isinstance(error, UnreadableAudioError)
    assert (error.reason, error.path) == ("unreadable", path)


def load_at_22050(path):
    return len(load_audio(path, 22050))


def test_all_workers_are_used_repeatedly(tmp_path):
    # Every task waits until its partner has begun, so that no worker can do both.
    tasks = [(tmp_path / str(number), tmp_path / str(number ^ 1)) for number in range(20)]
    processes = [outcome.result for outcome in run(worker_functions.meet_partner, tasks, 2)]
    assert all(len({*pair}) == 2 for pair in zip(processes[::2], processes[1::2], strict=True))
    assert len({*processes}) == 2
    assert os.getpid() not in processes


def test_only_a_window_of_tasks_is_fetched_ahead():
    taken = []

    def tasks():
        for number in range(1000):
            taken.append(number)
            yield number

    with contextlib.closing(
        run_in_workers(worker_functions.square, tasks(), num_workers=2, timeout_seconds=LONG_SECONDS)
    ) as outcomes:
        for expected in range(5):
            assert next(outcomes).result == expected**2
        time.sleep(0.2)
        # Two workers, sixteen tasks each, ahead of the five that were delivered.
        assert len(taken) <= 5 + 2 * 16
    assert worker_children() == []


def worker_children():
    # Spawned workers; the resource tracker of multiprocessing stays until the interpreter ends.
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_closed_iterator_leaves_no_process():
    outcomes = run_in_workers(
        worker_functions.misbehave, [("work", 0.0), ("sleep", 3600.0)], num_workers=2, timeout_seconds=3600
    )
    assert next(outcomes).result == 0.0
    assert len(worker_children()) == 2
    outcomes.close()
    assert worker_children() == []


def test_a_script_is_not_run_again_by_its_workers(tmp_path):
    # It has no `if __name__ == "__main__":`, which processes that import the main module would need.
    script = tmp_path / "script.py"
    script.write_text(
        "from clmr_tf.audio.isolation import run_in_workers\n"
        "from tests.clmr_tf.audio.worker_functions import square\n"
        "print([one.result for one in run_in_workers(square, [2, 3], num_workers=2, timeout_seconds=300)])\n"
    )
    finished = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LONG_SECONDS,
        check=False,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "[4, 9]\n", "")


def test_workers_that_cannot_start_end_the_run():
    python = multiprocessing.spawn.get_executable()
    # A program that fails at once.
    multiprocessing.set_executable("/bin/false")
    try:
        with pytest.raises(WorkerStartError, match=r"Worker processes cannot start \(exit code 1\); make sure that"):
            list(run_in_workers(worker_functions.square, [1], num_workers=1, timeout_seconds=300))
    finally:
        multiprocessing.set_executable(python)


@pytest.mark.parametrize(
    ("sent", "to_group", "exit_code"),
    [
        (signal.SIGINT, True, -signal.SIGINT),
        (signal.SIGKILL, False, -signal.SIGKILL),
        (signal.SIGTERM, False, -signal.SIGTERM),
    ],
)
def test_no_worker_outlives_its_parent(tmp_path, sent, to_group, exit_code):
    with subprocess.Popen(
        [sys.executable, "-m", "tests.clmr_tf.audio.worker_functions", tmp_path],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        notes = [tmp_path / "first", tmp_path / "second"]
        wait_until(lambda: all(note.exists() for note in notes))
        workers = [psutil.Process(int(note.read_text())) for note in notes]
        # A terminal sends Ctrl-C to the whole group.
        (os.killpg if to_group else os.kill)(parent.pid, sent)
        stderr = parent.communicate(timeout=LONG_SECONDS)[1]
        assert parent.returncode == exit_code
    wait_until(lambda: not any(is_alive(worker) for worker in workers))
    # One traceback, the parent's; the workers say nothing.
    assert stderr.count("Traceback") == (1 if sent == signal.SIGINT else 0)


def is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition):
    deadline = time.monotonic() + LONG_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
