"""Workers that wait for each other through files in a shared folder."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.train.distribution import Cluster, wait_for_workers

PATIENT_SECONDS, IMPATIENT_SECONDS = 30.0, 0.6
ADDRESSES = ("a:7000", "b:7000", "c:7000")


@pytest.fixture
def called(tmp_path):
    """Calls `wait_for_workers` in a thread, as one worker of the cluster."""
    with ThreadPoolExecutor() as pool:

        def call(index: int, addresses=ADDRESSES, timeout_seconds: float = PATIENT_SECONDS) -> Future:
            return pool.submit(wait_for_workers, tmp_path / "run", Cluster(addresses, index), timeout_seconds)

        yield call


@pytest.mark.parametrize("last", [0, 1, 2])
def test_all_continue_once_the_last_has_arrived_also_on_a_second_start(called, last):
    for _ in range(2):
        early = [called(index) for index in range(3) if index != last]
        time.sleep(0.5)
        assert not any(one.done() for one in early)
        assert [one.result(PATIENT_SECONDS) for one in (called(last), *early)] == [None] * 3


def test_error_names_the_missing_workers(called):
    waiting = called(2, timeout_seconds=2 * IMPATIENT_SECONDS)
    with pytest.raises(ClmrError) as caught:
        called(0, timeout_seconds=IMPATIENT_SECONDS).result()
    assert str(caught.value) == (
        "Of 3 workers, 1 (b:7000) did not start within 0.6 seconds; start all workers with the same --workdir on a "
        "folder that they share, or use a longer --worker-timeout-seconds."
    )
    with pytest.raises(ClmrError, match=r"Of 3 workers, 1 \(b:7000\) did not start within 1.2 seconds"):
        waiting.result()


def test_error_names_a_missing_chief(called):
    with pytest.raises(ClmrError, match=r"Of 3 workers, 0 \(a:7000\) did not start"):
        called(1, timeout_seconds=IMPATIENT_SECONDS).result()


def test_worker_of_another_cluster_is_rejected(called):
    waiting = called(1, addresses=("a:7000", "z:7000", "c:7000"), timeout_seconds=IMPATIENT_SECONDS)
    with pytest.raises(UsageError, match="have different clusters; give all the same TF_CONFIG"):
        called(0).result()
    with pytest.raises(ClmrError):
        waiting.result()


@pytest.mark.parametrize("content", ["[1, 2", "{}", '{"number": null}', '{"other": 1}'])
def test_leftover_files_are_ignored(called, tmp_path, content):
    (tmp_path / "run").mkdir()
    for name, text in {"start": content, "go": json.dumps([["1", "x"]])}.items():
        (tmp_path / "run" / f".workers-{name}.json").write_text(text)
    (tmp_path / "run" / ".worker-1.json").write_text('{"start": null}')
    early = [called(1), called(2)]
    # They read the leftover files before the chief arrives.
    time.sleep(0.5)
    assert [one.result(PATIENT_SECONDS) for one in [called(0), *early]] == [None] * 3


def test_workdir_that_cannot_be_created_is_rejected(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/run cannot be written .*; choose another --workdir"):
        wait_for_workers(tmp_path / "file" / "run", Cluster(ADDRESSES, 0), IMPATIENT_SECONDS)


@pytest.mark.soak
def test_signal_ends_the_wait_at_once(tmp_path):
    program = (
        "import sys; from pathlib import Path; from clmr_tf.console import run_command\n"
        "from clmr_tf.train.distribution import Cluster, wait_for_workers\n"
        "def command(_):\n"
        "    print('waiting', flush=True)\n"
        f"    wait_for_workers(Path({str(tmp_path)!r}), Cluster({ADDRESSES!r}, 0), 600)\n"
        "sys.exit(run_command(command, []))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as waiting:
        assert waiting.stdout.readline() == b"waiting\n"
        time.sleep(0.2)
        sent = time.monotonic()
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(PATIENT_SECONDS) == 143
        assert time.monotonic() - sent < 10
