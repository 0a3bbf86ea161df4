"""Waiting for the other processes of a cluster before TensorFlow does, where no signal and no time limit would count.

The chief listens on its own address, which TensorFlow takes over afterwards. Everyone else connects and says who it is,
in one line of JSON; once all are there, the chief stops listening and answers each with one line, and all go on. A
process that goes away while it waits is not counted, and may come again; who is no member is not listened to. Whoever
was not answered by a chief, such as by what an earlier run left on its port, asks again.
"""

import contextlib
import dataclasses
import hashlib
import json
import selectors
import socket
import time

from clmr_tf.cluster import Cluster
from clmr_tf.errors import ClmrError, UsageError

_SECONDS_BETWEEN_TRIES = 0.2
_LONGEST_WAIT_SECONDS = 5.0
# What is longer is no introduction.
_LONGEST_LINE_BYTES = 256
_GO = b"go\n"
_OVER = b"no longer waiting\n"
_REFUSED = b"other cluster\n"
_REPLACED = b"another has your index\n"


def meet(cluster: Cluster, timeout_seconds: float) -> None:
    """Returns once every process of the cluster has called this.

    Args:
        cluster: The same for all, but for the index.
        timeout_seconds: How long to wait for the last.

    Raises:
        ClmrError: If not all have come by then, or the chief has stopped waiting; names who is missing.
        UsageError: If the chief's cluster is another one, two have the same index, or the chief's port is in use.
    """
    deadline = time.monotonic() + timeout_seconds
    if cluster.index == 0:
        _gather(cluster, deadline, timeout_seconds)
    else:
        _join(cluster, deadline, timeout_seconds)


@dataclasses.dataclass
class _Visitor:
    """A connection to the chief; `index` is None until it has said who it is."""

    connection: socket.socket
    received: bytes = b""
    index: int | None = None


def _gather(cluster: Cluster, deadline: float, timeout_seconds: float) -> None:
    expected = set(range(1, len(cluster.addresses)))
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        listener = stack.enter_context(_listener(cluster.addresses[0]))
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        members: dict[int, _Visitor] = {}
        answer = _OVER
        try:
            while missing := expected - members.keys():
                if time.monotonic() >= deadline:
                    raise ClmrError(_missing_sentence(cluster, missing, timeout_seconds))
                for key, _ in selector.select(_wait_until(deadline)):
                    if key.fileobj is listener:
                        with contextlib.suppress(OSError):
                            connection = stack.enter_context(listener.accept()[0])
                            connection.setblocking(False)
                            selector.register(connection, selectors.EVENT_READ, _Visitor(connection))
                    elif not _listen_to(key.data, cluster, members):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
            answer = _GO
        finally:
            # Before anyone goes on, since TensorFlow needs the port.
            selector.unregister(listener)
            listener.close()
            for member in members.values():
                _tell(member, answer)


def _listen_to(visitor: _Visitor, cluster: Cluster, members: dict[int, _Visitor]) -> bool:
    """Takes what a visitor has sent; False if it has left, or has no business here."""
    try:
        arrived = visitor.connection.recv(_LONGEST_LINE_BYTES)
    except BlockingIOError:
        return True
    except OSError:
        arrived = b""
    if not arrived or len(visitor.received) > _LONGEST_LINE_BYTES:
        if members.get(visitor.index) is visitor:
            del members[visitor.index]
        return False
    visitor.received += arrived
    if visitor.index is not None or b"\n" not in visitor.received:
        return True
    try:
        said = json.loads(visitor.received)
        index, digest = said["index"], said["cluster"]
    except (ValueError, KeyError, TypeError):
        return False
    if digest != _digest(cluster) or index not in range(1, len(cluster.addresses)):
        _tell(visitor, _REFUSED)
        return False
    visitor.index = index
    # The one before may be of a machine that is gone, which nobody would have noticed.
    if index in members:
        _tell(members[index], _REPLACED)
    members[index] = visitor
    return True


def _tell(visitor: _Visitor, answer: bytes) -> None:
    with contextlib.suppress(OSError):
        visitor.connection.sendall(answer)


def _join(cluster: Cluster, deadline: float, timeout_seconds: float) -> None:
    chief = cluster.addresses[0]
    introduction = json.dumps({"index": cluster.index, "cluster": _digest(cluster)}).encode() + b"\n"
    refusals = {
        _REFUSED: UsageError(
            f"The chief at {chief} has another TF_CONFIG than this worker; give all the same cluster, and each an "
            "index of its own."
        ),
        _REPLACED: UsageError(
            f"Another worker came to the chief at {chief} with the index of this one; give each in TF_CONFIG an index "
            "of its own."
        ),
        _OVER: ClmrError(
            f"The chief at {chief} no longer waits for the workers; see what it said, and start all again."
        ),
    }
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(_host_and_port(chief), _wait_until(deadline)) as connection:
                connection.sendall(introduction)
                answer = _answer(connection, deadline)
        except OSError:
            # Nobody listens there yet.
            answer = b""
        if answer == _GO:
            return
        if answer in refusals:
            raise refusals[answer]
        time.sleep(_SECONDS_BETWEEN_TRIES)
    raise ClmrError(
        f"The chief at {chief} did not answer, or not all workers had come, within {timeout_seconds:g} seconds; start "
        "all workers, or give a longer --worker-timeout-seconds."
    )


def _answer(connection: socket.socket, deadline: float) -> bytes:
    """The chief's line, or what came in its place until the connection was closed or the time was over."""
    received = b""
    while time.monotonic() < deadline and len(received) <= _LONGEST_LINE_BYTES and not received.endswith(b"\n"):
        connection.settimeout(_wait_until(deadline))
        with contextlib.suppress(TimeoutError):
            arrived = connection.recv(_LONGEST_LINE_BYTES)
            if not arrived:
                break
            received += arrived
    return received


def _wait_until(deadline: float) -> float:
    # More than nothing, which would mean not to wait for a connection at all.
    return min(_LONGEST_WAIT_SECONDS, max(0.01, deadline - time.monotonic()))


def _listener(address: str) -> socket.socket:
    # On all interfaces, as TensorFlow does: the name by which the others know this machine need not be one of its own.
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", _host_and_port(address)[1]), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UsageError(
            f"The port of {address}, this worker's address in TF_CONFIG, cannot be used ({error.strerror}); end what "
            "uses it, or give another."
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _digest(cluster: Cluster) -> str:
    return hashlib.sha256(json.dumps(cluster.addresses).encode()).hexdigest()


def _missing_sentence(cluster: Cluster, missing: set[int], timeout_seconds: float) -> str:
    listed = ", ".join(f"{index} ({cluster.addresses[index]})" for index in sorted(missing))
    return (
        f"Of {len(cluster.addresses)} workers, {listed} did not come within {timeout_seconds:g} seconds; start all "
        "workers, or give a longer --worker-timeout-seconds."
    )
