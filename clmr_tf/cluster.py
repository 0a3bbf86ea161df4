"""The processes that train together, as the environment variable TF_CONFIG names them."""

import dataclasses
import itertools
import json
import os
import re

from clmr_tf.errors import UsageError


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
