"""Devices, replicas and workers: which ones train, and how they wait for each other."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from clmr_tf.console import EXIT_FAILURE
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import writable_or_usage_error, write_atomically
from clmr_tf.hardware import gpu_names, num_usable_cores


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Processes that train together.

    Attributes:
        addresses: Addresses of all processes, "host:port", the chief's first.
        index: Index of this process among them.
    """

    addresses: tuple[str, ...]
    index: int


def configured_cluster() -> Cluster | None:
    """The cluster of TF_CONFIG, else of the Slurm job step that runs this process; None if there is neither.

    Raises:
        UsageError: If TF_CONFIG is not what MultiWorkerMirroredStrategy accepts, or Slurm's variables are invalid.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if text:
        return _cluster_of_tf_config(text)
    return _cluster_of_slurm() if os.environ.get("SLURM_STEP_NODELIST") else None


def _cluster_of_tf_config(text: str) -> Cluster:
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


# Below the ports that Linux gives to outgoing connections. Two jobs may share a node, so their ports must differ.
_FIRST_SLURM_PORT, _PORTS_PER_STEP, _NUM_PORT_RANGES = 10_000, 32, 640


def _cluster_of_slurm() -> Cluster:
    """The cluster of a job step.

    TensorFlow's SlurmClusterResolver is not used: it sorts the nodes by name (n10 before n2), so that processes get the
    addresses of others, all its jobs use port 8888, and it fails without nvidia-smi.
    """
    job, step, node, local = (
        _slurm_number(name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NODEID", "SLURM_LOCALID")
    )
    hosts = _expanded(os.environ["SLURM_STEP_NODELIST"])
    # For example "2(x3),1": two tasks on each of three nodes, one on the fourth.
    name, text = "SLURM_STEP_TASKS_PER_NODE", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    groups = [re.fullmatch(r"([0-9]+)(?:\(x([0-9]+)\))?", group) for group in text.split(",")]
    if not all(groups):
        raise UsageError(f"{name} must be counts such as 2(x3),1; received {text!r}; start the workers with srun.")
    num_tasks = [int(group[1]) for group in groups for _ in range(int(group[2] or 1))]
    if len(num_tasks) != len(hosts):
        raise UsageError(
            f"{name} must have a count for each of the {len(hosts)} nodes in SLURM_STEP_NODELIST; received {text!r}; "
            "start the workers with srun."
        )
    if node >= len(hosts) or local >= num_tasks[node]:
        raise UsageError(
            f"SLURM_NODEID and SLURM_LOCALID must be one of the tasks {text} on {len(hosts)} nodes; received {node} "
            f"and {local}; start the workers with srun."
        )
    # Ports of jobs that follow each other, and of their steps, differ.
    port = _FIRST_SLURM_PORT + (31 * job + step) % _NUM_PORT_RANGES * _PORTS_PER_STEP
    addresses = (f"{host}:{port + task}" for host, count in zip(hosts, num_tasks, strict=True) for task in range(count))
    # Unlike SLURM_PROCID, this does not depend on srun's --distribution.
    return Cluster(tuple(addresses), sum(num_tasks[:node]) + local)


def _slurm_number(name: str) -> int:
    text = os.environ.get(name, "")
    if re.fullmatch("[0-9]{1,18}", text) is None:
        raise UsageError(f"{name} must be a number; received {text!r}; start the workers with srun.")
    return int(text)


def _expanded(node_list: str) -> list[str]:
    """The nodes of a list such as "n[1-3],m5"."""
    command = ["scontrol", "show", "hostnames", node_list]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"Slurm's scontrol cannot list the nodes in SLURM_STEP_NODELIST={node_list!r} "
            f"({(getattr(error, 'stderr', '') or str(error)).strip()}); set TF_CONFIG instead."
        ) from error


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
    # In Python, a bool is an int.
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


_SECONDS_BETWEEN_LOOKS = 0.2


def wait_for_workers(folder: Path, cluster: Cluster, timeout_seconds: float) -> None:
    """Returns once every process of the cluster has called this.

    The processes write files to a shared folder: the chief writes a random number, each worker answers with that number
    and its own random number, and once all have answered, the chief writes a confirmation with all their numbers. Files
    of earlier starts have other numbers and are ignored.

    Args:
        folder: Folder of the run; created if it does not exist.
        cluster: The same for all, except for the index.
        timeout_seconds: How long to wait for the last process.

    Raises:
        ClmrError: If not all have called by then; it names the missing ones.
        UsageError: If the folder cannot be written, or a worker has another cluster than the chief.
    """
    own = secrets.token_hex(8)
    others = range(1, len(cluster.addresses))
    files = {index: folder / f".worker-{index}.json" for index in others}
    start, go = folder / ".workers-start.json", folder / ".workers-go.json"
    members = list(cluster.addresses)
    deadline = time.monotonic() + timeout_seconds
    with writable_or_usage_error(folder, "choose another --workdir"):
        folder.mkdir(parents=True, exist_ok=True)
        if cluster.index == 0:
            write_atomically(start, json.dumps({"number": own, "cluster": members}))
        while True:
            begun = _read_message(start).get("number")
            answers = {index: _read_message(file) for index, file in files.items()}
            came = {index for index, answer in answers.items() if begun and answer.get("start") == begun}
            if cluster.index == 0:
                if any(answers[index].get("cluster") != members for index in came):
                    raise UsageError(
                        "The workers have different clusters; give all the same TF_CONFIG, or start all by one srun."
                    )
                if came == set(others):
                    write_atomically(go, json.dumps({str(index): answers[index].get("number") for index in others}))
                    return
            elif _read_message(go).get(str(cluster.index)) == own:
                return
            elif begun and answers[cluster.index] != (answer := {"start": begun, "number": own, "cluster": members}):
                write_atomically(files[cluster.index], json.dumps(answer))
            if time.monotonic() >= deadline:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    missing = set(others) - came - {cluster.index} if begun else {0}
    listed = (
        ", ".join(f"{index} ({cluster.addresses[index]})" for index in sorted(missing)) or "the chief's confirmation"
    )
    raise ClmrError(
        f"Of {len(members)} workers, {listed} did not start within {timeout_seconds:g} seconds; start all workers with "
        "the same --workdir on a folder that they share, or use a longer --worker-timeout-seconds."
    )


def _read_message(path: Path) -> dict[str, Any]:
    """What a worker wrote; empty if it has not written yet, or if the file is not from a worker."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


class Watchdog:
    """Ends the process if nothing is reported for too long.

    Args:
        timeout_seconds: The longest time between two reports.
        message: One sentence for standard error.
    """

    def __init__(self, timeout_seconds: float, message: str) -> None:
        self._timeout_seconds = timeout_seconds
        self._message = message
        self._reported = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._reported.set()
        self._thread.join()

    def report(self) -> None:
        """Resets the timeout."""
        self._reported.set()

    def _watch(self) -> None:
        while self._reported.wait(self._timeout_seconds):
            self._reported.clear()
            if self._is_over:
                return
        # An exception would not help: the main thread waits in native code for a worker that will never answer.
        sys.stderr.write(f"error: {self._message}\n")
        sys.stderr.flush()
        os._exit(EXIT_FAILURE)


@contextlib.contextmanager
def workers_watchdog(strategy: tf.distribute.Strategy, timeout_seconds: float) -> Iterator[Callable[[], None]]:
    """Ends the process if other workers are lost; yields a heartbeat function."""
    if num_workers(strategy) == 1:
        yield lambda: None
        return
    lost = (
        f"There was no progress for {timeout_seconds:g} seconds, so another worker counts as lost; "
        "start all workers again to resume from the newest checkpoint."
    )
    with Watchdog(timeout_seconds, lost) as watchdog:
        yield watchdog.report


def build_strategy(
    name: str, num_replicas: int = 0, *, shared_folder: Path | None = None, timeout_seconds: float = 600.0
) -> tf.distribute.Strategy:
    """Sets up the devices that a run trains on.

    Call it before anything else uses a device: workers must wait for each other first, and a CPU can only be split
    before it is used.

    Args:
        name: "single", one device; "mirrored", several of this machine; "multi_worker", those of all machines in the
            environment variable TF_CONFIG, or of the Slurm job step that this process belongs to; "auto", the last of
            these that has more than one device.
        num_replicas: Devices for "mirrored"; 0 uses every GPU. Without a GPU, the CPU is split into this many.
        shared_folder: Where several workers wait for each other.
        timeout_seconds: How long they wait.

    Raises:
        UsageError: If there are no such devices, or "multi_worker" finds no other processes.
        ClmrError: If not all workers start in time.
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
                "and the index of this one, or srun; neither is there."
            )
        if num_processes > 1 and shared_folder:
            wait_for_workers(shared_folder, cluster, timeout_seconds)
        with _kept_signal_handler():
            return tf.distribute.MultiWorkerMirroredStrategy(_resolver(cluster, len(gpus)))
    count = num_replicas or len(gpus)
    if count == 0:
        raise UsageError(
            "--strategy mirrored found no GPU; use --num-replicas 2 to split the CPU in two, or --strategy single."
        )
    if gpus and count > len(gpus):
        raise UsageError(f"--num-replicas must be at most {len(gpus)}, the GPUs of this machine; received {count}.")
    kind = "GPU" if gpus else "CPU"
    if not gpus:
        _split_cpu(count)
    return _mirrored(tuple(f"{kind}:{index}" for index in range(count)))


def _resolver(cluster: Cluster, num_gpus: int) -> tf.distribute.cluster_resolver.ClusterResolver:
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": num_gpus},
        rpc_layer="grpc",
    )


@contextlib.contextmanager
def _kept_signal_handler() -> Iterator[None]:
    """Restores the handler of SIGTERM, which MultiWorkerMirroredStrategy replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None if it was not set from Python; only the main thread may set one.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that train together; 1 unless the strategy is "multi_worker"."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return 1
    return len(resolver.cluster_spec().as_dict()["worker"])


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """Index of this process; 0 is the chief, the only one that writes."""
    if num_workers(strategy) == 1:
        return 0
    return strategy.cluster_resolver.task_id


def describe_devices(strategy: tf.distribute.Strategy) -> dict[str, object]:
    """The name of the strategy in `build_strategy`, and its numbers of replicas and workers, as JSON data."""
    kind = "mirrored" if isinstance(strategy, tf.distribute.MirroredStrategy) else "single"
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        kind = "multi_worker"
    return {"strategy": kind, "num_replicas": strategy.num_replicas_in_sync, "num_workers": num_workers(strategy)}


def gather_over_workers(strategy: tf.distribute.Strategy, number: int) -> list[int]:
    """The numbers that all workers pass, one for each replica; each worker waits until all have called.

    Raises:
        ClmrError: If another worker has stopped.
    """
    if num_workers(strategy) == 1:
        return [number]
    try:
        return [int(each) for each in _gather(strategy)(tf.constant(number, tf.int64))]
    except tf.errors.OpError as error:
        raise ClmrError(
            "Another worker has stopped; see its error, and start all workers again to resume the run."
        ) from error


def largest_over_workers(strategy: tf.distribute.Strategy, number: int) -> int:
    """The largest number that any worker passes; each worker waits until all have called."""
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
    # Two strategies in one process would use the same keys for their collectives and mix up their messages.
    return tf.distribute.MirroredStrategy(devices)


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except (RuntimeError, ValueError):
        # The CPU is in use already and can no longer be split.
        found = len(tf.config.list_logical_devices("CPU"))
        if found < count:
            raise UsageError(
                f"--num-replicas must be at most {found} in a process that has already used the CPU; received {count}."
            ) from None


def devices_in_words(strategy: tf.distribute.Strategy) -> str:
    """What a run trains on, such as "2 CPU cores" or "1 GPU: NVIDIA H200"."""
    cores = num_usable_cores()
    in_words = "1 CPU core" if cores == 1 else f"{cores} CPU cores"
    num_processes = num_workers(strategy)
    num_own = strategy.num_replicas_in_sync // num_processes
    # A strategy for one device uses the first one.
    gpus = gpu_names()[:num_own]
    if gpus:
        in_words = f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}: {', '.join(gpus)}"
    elif num_own > 1:
        in_words += f", in {num_own} replicas"
    return in_words if num_processes == 1 else f"{num_processes} workers, this one with {in_words}"
