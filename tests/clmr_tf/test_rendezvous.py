"""Processes that wait for each other, with real sockets; nothing here needs TensorFlow."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.train.distribution import Cluster, meet

PATIENT_SECONDS, IMPATIENT_SECONDS = 30.0, 0.5


def free_addresses(count: int) -> tuple[str, ...]:
    with contextlib.ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("localhost", 0))
        return tuple(f"localhost:{one.getsockname()[1]}" for one in found)


@pytest.fixture
def threads():
    with ThreadPoolExecutor() as pool:
        yield pool


def called(threads, addresses, index: int, timeout_seconds: float = PATIENT_SECONDS) -> Future:
    return threads.submit(meet, Cluster(addresses, index), timeout_seconds)


def visitor(address: str) -> socket.socket:
    """A connection to a chief, as soon as it listens."""
    host, port = address.split(":")
    for _ in range(500):
        with contextlib.suppress(OSError):
            return socket.create_connection((host, int(port)), 5)
        time.sleep(0.01)
    raise AssertionError(f"nobody listens at {address}")


def test_all_go_on_once_the_last_has_come_and_the_port_is_free_again_each_time(threads):
    addresses = free_addresses(3)
    for first in (0, 1, 2, 0, 1, 2):
        early = [called(threads, addresses, index) for index in range(3) if index != first]
        time.sleep(0.02)
        assert not any(one.done() for one in early)
        late = called(threads, addresses, first)
        assert [one.result(PATIENT_SECONDS) for one in (*early, late)] == [None] * 3
        with socket.create_server(("", int(addresses[0].split(":")[1]))):
            pass


def test_whoever_is_missing_is_named_and_the_others_do_not_wait_on(threads):
    addresses = free_addresses(4)
    waiting = called(threads, addresses, 2)
    with pytest.raises(ClmrError) as caught:
        meet(Cluster(addresses, 0), IMPATIENT_SECONDS)
    assert str(caught.value) == (
        f"Of 4 workers, 1 ({addresses[1]}), 3 ({addresses[3]}) did not come within 0.5 seconds; start all workers, or "
        "give a longer --worker-timeout-seconds."
    )
    with pytest.raises(
        ClmrError, match=f"The chief at {addresses[0]} no longer waits for the workers; see what it sai"
    ):
        waiting.result(PATIENT_SECONDS)
    with pytest.raises(ClmrError, match=f"The chief at {addresses[0]} did not answer, .* within 0.5 seconds"):
        meet(Cluster(addresses, 1), IMPATIENT_SECONDS)


def test_a_worker_of_another_cluster_is_sent_away_and_strangers_do_no_harm(threads):
    addresses = free_addresses(2)
    chief = called(threads, addresses, 0)
    with contextlib.ExitStack() as stack:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\n", b"[]\n", b"x" * 2000, b'{"index": 7}\n', b""):
            stack.enter_context(visitor(addresses[0])).sendall(words)
        # The silent one stays.
        stack.enter_context(visitor(addresses[0]))
        other = (addresses[0], "localhost:1")
        with pytest.raises(UsageError, match=f"The chief at {addresses[0]} has another TF_CONFIG than this worker"):
            meet(Cluster(other, 1), PATIENT_SECONDS)
        assert not chief.done()
        meet(Cluster(addresses, 1), PATIENT_SECONDS)
        assert chief.result(PATIENT_SECONDS) is None


def test_of_two_workers_with_one_index_the_first_is_told(threads):
    addresses = free_addresses(3)
    chief = called(threads, addresses, 0)
    first = called(threads, addresses, 1)
    time.sleep(0.3)
    second = called(threads, addresses, 1)
    with pytest.raises(UsageError, match=f"Another worker came to the chief at {addresses[0]} with the index of this"):
        first.result(PATIENT_SECONDS)
    assert not second.done() and not chief.done()
    assert [one.result(PATIENT_SECONDS) for one in (called(threads, addresses, 2), second, chief)] == [None] * 3


@pytest.mark.parametrize(
    "left_behind",
    [b"", b"\0\0\x12\4\0\0\0\0\0", b"HTTP/1.1 400 Bad Request\r\n", b"x" * 1000],
    ids=["nothing", "gRPC", "HTTP", "much"],
)
def test_what_an_earlier_run_left_on_the_port_of_the_chief_is_not_its_answer(threads, left_behind):
    addresses = free_addresses(2)
    with socket.create_server(("localhost", int(addresses[0].split(":")[1]))) as server:
        member = called(threads, addresses, 1)
        connection = server.accept()[0]
        connection.recv(1000)
        connection.sendall(left_behind)
        connection.close()
    assert [one.result(PATIENT_SECONDS) for one in (called(threads, addresses, 0), member)] == [None] * 2


def test_a_worker_that_went_away_while_it_waited_has_not_come(threads):
    addresses = free_addresses(3)
    chief = called(threads, addresses, 0)
    program = (
        "import sys; from clmr_tf.train.distribution import Cluster; from clmr_tf.train.distribution import meet\n"
    )
    program += f"meet(Cluster({addresses!r}, 1), 60)"
    gone = subprocess.Popen([sys.executable, "-c", program])
    time.sleep(0.5)
    gone.kill()
    gone.wait()
    last = called(threads, addresses, 2)
    time.sleep(0.3)
    assert not chief.done() and not last.done()
    assert called(threads, addresses, 1).result(PATIENT_SECONDS) is chief.result(PATIENT_SECONDS) is None
    assert last.result(PATIENT_SECONDS) is None


@pytest.mark.parametrize(("number", "index", "code"), [(signal.SIGTERM, 0, 143), (signal.SIGINT, 1, 130)])
def test_a_signal_ends_the_waiting_at_once(number, index, code):
    program = (
        "import sys; from clmr_tf.train.distribution import Cluster; from clmr_tf.console import run_command\n"
        "from clmr_tf.train.distribution import meet\n"
        "def command(_):\n"
        "    print('waiting', flush=True)\n"
        f"    meet(Cluster({free_addresses(2)!r}, {index}), 600)\n"
        "sys.exit(run_command(command, []))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as waiting:
        assert waiting.stdout.readline() == b"waiting\n"
        time.sleep(0.2)
        sent = time.monotonic()
        waiting.send_signal(number)
        assert waiting.wait(PATIENT_SECONDS) == code
        assert time.monotonic() - sent < 10


def test_a_port_that_is_in_use_is_said(threads):
    with socket.create_server(("", 0)) as other:
        address = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"The port of {address}, .* cannot be used .Address already in use"):
            meet(Cluster((address, "localhost:1"), 0), PATIENT_SECONDS)


def test_the_introduction_is_short_whatever_the_cluster(threads):
    addresses = (*free_addresses(1), *(f"machine-{number}.of.a.large.cluster:7000" for number in range(500)))
    with socket.create_server(("localhost", int(addresses[0].split(":")[1]))) as server:
        member = called(threads, addresses, 300, 2.0)
        connection = server.accept()[0]
        said = connection.recv(1000)
        connection.sendall(b"go\n")
        connection.close()
    assert member.result(PATIENT_SECONDS) is None
    assert len(said) < 256 and json.loads(said)["index"] == 300
