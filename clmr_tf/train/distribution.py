"""Devices, replicas and workers: which ones train, and how they wait for each other."""

import contextlib
import dataclasses
import faulthandler
import functools
import hashlib
import itertools
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.hardware import gpu_names, num_usable_cores

# Says its argument once anything but the end is read.
_SPEAKER = ["sh", "-c", 'IFS= read -r _ && echo "$0" >&2']


@contextlib.contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """Ends the process, with exit code 1, if what is done within takes longer.

    Args:
        seconds: How long it may take, above 0.
        message: The last words; one sentence for standard error.
    """
    # The timer of faulthandler is the only one of Python that is native itself. What it has to say is a traceback,
    # whose first line makes the other process say what we have to.
    with subprocess.Popen([*_SPEAKER, f"error: {message}"], stdin=subprocess.PIPE) as speaker:
        faulthandler.dump_traceback_later(seconds, exit=True, file=speaker.stdin)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Processes that train together.

    Attributes:
        addresses: Of all, "host:port", the chief's first.
        index: Place of this process among them.
    """

    addresses: tuple[str, ...]
    index: int


def configured_cluster() -> Cluster | None:
    """The cluster of TF_CONFIG; None where it is not set.

    Raises:
        UsageError: If it is not what MultiWorkerMirroredStrategy takes.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
        jobs = config["cluster"]
        if not sum(map(len, jobs.values())) or not all(isinstance(addresses, list) for addresses in jobs.values()):
            raise TypeError("not lists of addresses")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            'TF_CONFIG must be JSON such as {"cluster": {"worker": ["host:port", "host:port"]}, "task": {"type": '
            f'"worker", "index": 0}}}}; received {text!r}.'
        ) from error
    _check_jobs(jobs)
    job, index = _task_of(config.get("task"), jobs)
    chiefs = jobs.get("chief", [])
    place = index + (len(chiefs) if job == "worker" else 0)
    return Cluster(tuple(chiefs) + tuple(jobs.get("worker", [])), place)


def _check_jobs(jobs: dict[str, list[object]]) -> None:
    others = sorted(jobs.keys() - {"chief", "worker"})
    if others:
        raise UsageError(f"TF_CONFIG must have only the jobs chief and worker; received {', '.join(others)}.")
    num_chiefs = len(jobs.get("chief", ()))
    if num_chiefs > 1:
        raise UsageError(f"TF_CONFIG must have at most one chief; received {num_chiefs}.")
    addresses = list(itertools.chain.from_iterable(jobs.values()))
    for address in addresses:
        host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
        if not _is_host(host) or re.fullmatch("[0-9]{1,5}", port) is None or not 0 < int(port) < 2**16:
            raise UsageError(f"TF_CONFIG must have the address of every process as host:port; received {address!r}.")
        if addresses.count(address) > 1:
            raise UsageError(f"TF_CONFIG must have every address once; received {address!r} twice.")


def _is_host(host: str) -> bool:
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _task_of(task: object, jobs: dict[str, list[object]]) -> tuple[str, int]:
    job, index = (task.get("type"), task.get("index")) if isinstance(task, dict) else (None, None)
    # A bool is an int to Python.
    if not isinstance(job, str) or type(index) is not int:
        raise UsageError(
            'TF_CONFIG must say which process this is, such as "task": {"type": "worker", "index": 0}; '
            f"received {task!r}."
        )
    if job not in jobs:
        raise UsageError(f"TF_CONFIG must not have a task of job {job!r}; its cluster has {', '.join(jobs)}.")
    if not 0 <= index < len(jobs[job]):
        raise UsageError(f"TF_CONFIG must have an index from 0 to {len(jobs[job]) - 1} for a {job}; received {index}.")
    return job, index


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
        _answers_of_all(cluster, deadline, timeout_seconds)
    else:
        _join(cluster, deadline, timeout_seconds)


@dataclasses.dataclass
class _Visitor:
    """A connection to the chief; `index` is None until it has said who it is."""

    connection: socket.socket
    received: bytes = b""
    index: int | None = None


def _answers_of_all(cluster: Cluster, deadline: float, timeout_seconds: float) -> None:
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


def build_strategy(name: str, num_replicas: int = 0, timeout_seconds: float = 600.0) -> tf.distribute.Strategy:
    """The devices that a run trains on.

    To be called before anything else makes TensorFlow look for devices: several workers have to find each other
    first, and a CPU can only be split before it is used.

    Args:
        name: "single", one device; "mirrored", several of this machine; "multi_worker", all of the machines that
            the environment variable TF_CONFIG names; "auto", the last one for which there is more than one.
        num_replicas: Devices that "mirrored" takes; 0 takes every GPU. Without a GPU, the CPU is split into as many.
        timeout_seconds: How long several workers wait for each other, and then for TensorFlow to connect them; it
            ends the process if that takes longer.

    Raises:
        UsageError: If there are no such devices, or TF_CONFIG is not what "multi_worker" needs.
        ClmrError: If not all workers come in time.
    """
    cluster = configured_cluster() if name in ("auto", "multi_worker") else None
    num_processes = len(cluster.addresses) if cluster else 0
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        several = num_replicas > 1 or (num_replicas == 0 and len(gpus) > 1)
        name = "multi_worker" if num_processes > 1 else "mirrored" if several else "single"
    if name == "single":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        if cluster is None:
            raise UsageError(
                "--strategy multi_worker needs the environment variable TF_CONFIG, with the addresses of all workers "
                "and the index of this one; received none."
            )
        if num_processes > 1:
            meet(cluster, timeout_seconds)
        unconnected = (
            f"TensorFlow could not connect the workers within {timeout_seconds:g} seconds after all had come, so one "
            "of them has left; see what it said, and start all again."
        )
        with _kept_signal_handler(), time_limit(timeout_seconds, unconnected):
            return tf.distribute.MultiWorkerMirroredStrategy()
    count = num_replicas or len(gpus)
    if count == 0:
        raise UsageError(
            "--strategy mirrored finds no GPU; --num-replicas 2 splits the CPU in two, --strategy single does not."
        )
    if gpus and count > len(gpus):
        raise UsageError(f"--num-replicas must be at most {len(gpus)}, the GPUs of this machine; received {count}.")
    kind = "GPU" if gpus else "CPU"
    if not gpus:
        _split_cpu(count)
    return _mirrored(tuple(f"{kind}:{index}" for index in range(count)))


@contextlib.contextmanager
def _kept_signal_handler() -> Iterator[None]:
    """Brings back who handles SIGTERM: TensorFlow puts a handler of its own in its place, which does nothing for us."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None where it was not set from Python; and only the main thread may set one.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that train together; 1 but for "multi_worker"."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return 1
    return sum(len(addresses) for addresses in resolver.cluster_spec().as_dict().values())


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """Which of the processes this one is; the first, 0, is the chief, which alone writes."""
    if num_workers(strategy) == 1:
        return 0
    resolver = strategy.cluster_resolver
    num_chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
    return resolver.task_id + (num_chiefs if resolver.task_type == "worker" else 0)


def describe_devices(strategy: tf.distribute.Strategy) -> dict[str, object]:
    """What "auto" came to, as JSON data: the strategy by the name that `build_strategy` takes, replicas and workers."""
    kind = "mirrored" if isinstance(strategy, tf.distribute.MirroredStrategy) else "single"
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        kind = "multi_worker"
    return {"strategy": kind, "num_replicas": strategy.num_replicas_in_sync, "num_workers": num_workers(strategy)}


def gather_over_workers(strategy: tf.distribute.Strategy, number: int) -> list[int]:
    """The numbers that the workers call this with, one for each replica; each waits until all have called.

    Raises:
        ClmrError: If another worker does not call any more.
    """
    if num_workers(strategy) == 1:
        return [number]
    try:
        return [int(each) for each in _gather(strategy)(tf.constant(number, tf.int64))]
    except tf.errors.OpError as error:
        raise ClmrError(
            "Another worker has left; see what it said, and start all workers again, which resumes the run."
        ) from error


def largest_over_workers(strategy: tf.distribute.Strategy, number: int) -> int:
    """The largest of the numbers that the workers call this with; each waits until all have called."""
    return max(gather_over_workers(strategy, number))


@functools.cache
def _gather(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    def gather_of_replicas(number: tf.Tensor) -> tf.Tensor:
        return tf.distribute.get_replica_context().all_gather(number[tf.newaxis], axis=0)

    @tf.function(autograph=False)
    def gather(number: tf.Tensor) -> tf.Tensor:
        return strategy.experimental_local_results(strategy.run(gather_of_replicas, args=(number,)))[0]

    return gather


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    # Two strategies of one process would number their messages alike and take each other's.
    return tf.distribute.MirroredStrategy(devices)


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except (RuntimeError, ValueError):
        # TensorFlow is in use already, and what it was split into then is what there is.
        found = len(tf.config.list_logical_devices("CPU"))
        if found < count:
            raise UsageError(
                f"--num-replicas must be at most {found} in a process that has used the CPU before; received {count}."
            ) from None


def devices_in_words(strategy: "tf.distribute.Strategy") -> str:
    """What a run trains on, such as "2 CPU cores" or "1 GPU: NVIDIA H200"."""
    from clmr_tf.train.distribution import num_workers

    cores = num_usable_cores()
    in_words = "1 CPU core" if cores == 1 else f"{cores} CPU cores"
    num_processes = num_workers(strategy)
    num_own = strategy.num_replicas_in_sync // num_processes
    # A strategy for one device takes the first.
    gpus = gpu_names()[:num_own]
    if gpus:
        in_words = f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}: {', '.join(gpus)}"
    elif num_own > 1:
        in_words += f", in {num_own} replicas"
    return in_words if num_processes == 1 else f"{num_processes} workers, this one with {in_words}"
