"""How TF_CONFIG and Slurm's variables are read and validated."""

import json
import os
import socket
import subprocess
import sys

import pytest
import tensorflow as tf

from clmr_tf.errors import UsageError
from clmr_tf.train import distribution


class FoundWorkers:
    """Stands for the real strategy, whose constructor waits for the other workers."""

    def __init__(self, cluster_resolver):
        self.cluster_resolver = cluster_resolver


@pytest.fixture
def configured(monkeypatch):
    """Sets TF_CONFIG and builds the strategy of a --strategy option."""
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", FoundWorkers)

    def build(config: object, name: str = "multi_worker"):
        monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
        return distribution.build_strategy(name)

    return build


def config_of(task: object, **cluster: object) -> dict:
    return {"cluster": cluster, "task": task}


@pytest.mark.parametrize(
    ("cluster", "indices"),
    [
        ({"worker": ["a:1", "b:2"]}, {("worker", 0): 0, ("worker", 1): 1}),
        ({"chief": ["a:1"], "worker": ["b:2"]}, {("chief", 0): 0, ("worker", 0): 1}),
        ({"worker": ["b:2", "[::1]:3"], "chief": ["a:1"]}, {("chief", 0): 0, ("worker", 0): 1, ("worker", 1): 2}),
    ],
)
@pytest.mark.parametrize("name", ["auto", "multi_worker"])
def test_chief_counts_as_the_first_worker(configured, name, cluster, indices):
    for (job, index), expected in indices.items():
        strategy = configured(config_of({"type": job, "index": index}, **cluster), name)
        assert isinstance(strategy, FoundWorkers)
        assert distribution.num_workers(strategy) == len(indices)
        assert distribution.worker_index(strategy) == expected


@pytest.mark.parametrize("job", ["chief", "worker"])
def test_auto_uses_default_strategy_for_a_single_process(configured, job):
    strategy = configured(config_of({"type": job, "index": 0}, **{job: ["a:1"]}), "auto")
    assert strategy is tf.distribute.get_strategy()
    strategy = configured(config_of({"type": job, "index": 0}, **{job: ["a:1"]}))
    assert distribution.num_workers(strategy) == 1 and distribution.worker_index(strategy) == 0


FIRST = {"type": "worker", "index": 0}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "must be JSON such as"),
        ({"task": FIRST}, "must be JSON such as"),
        (config_of(FIRST, worker=["a:1", "b:2"], ps=["c:3"]), "only the jobs chief and worker; received ps"),
        (config_of(FIRST, chief=["a:1", "b:2"], worker=["c:3"]), "at most one chief; received 2"),
        (config_of(FIRST, worker=["a:1", "b"]), "address of every process as host:port; received 'b'"),
        (config_of(FIRST, worker=["a:1", "b:65536"]), "as host:port; received 'b:65536'"),
        (config_of(FIRST, chief=["a:1"], worker=["a:1"]), "every address once; received 'a:1' twice"),
        ({"cluster": {"worker": ["a:1", "b:2"]}}, 'which process this is.* "task".*; received None'),
        (config_of({"type": "worker", "index": True}, worker=["a:1", "b:2"]), "which process this is.*; received"),
        (config_of({"type": "chief", "index": 0}, worker=["a:1", "b:2"]), "job .chief.; its cluster has worker"),
        (config_of({"type": "worker", "index": 2}, worker=["a:1", "b:2"]), "from 0 to 1 for a worker; received 2"),
    ],
)
def test_invalid_tf_config_is_rejected_in_one_sentence(configured, config, words):
    with pytest.raises(UsageError, match=words) as caught:
        configured(config)
    assert str(caught.value).startswith("TF_CONFIG must") and "\n" not in str(caught.value)


# The first node of the list is not the first by name.
STEP = {
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n2,n10",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_PROCID": "2",
}


@pytest.fixture
def in_slurm(monkeypatch, scontrol):
    """Builds the strategy of a process of a job step."""
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", FoundWorkers)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("PATH", f"{scontrol}{os.pathsep}{os.environ['PATH']}")

    def build(name: str = "multi_worker", **variables: str):
        for variable, value in {**STEP, **variables}.items():
            monkeypatch.setenv(variable, value)
        return distribution.build_strategy(name)

    return build


def addresses_of(strategy: FoundWorkers) -> list[str]:
    return strategy.cluster_resolver.cluster_spec().as_dict()["worker"]


@pytest.mark.parametrize("name", ["auto", "multi_worker"])
def test_workers_of_a_slurm_step_are_in_the_order_of_its_nodes(in_slurm, name):
    places = [("0", "0"), ("0", "1"), ("1", "0")]
    found = [in_slurm(name, SLURM_NODEID=node, SLURM_LOCALID=local) for node, local in places]
    assert [distribution.worker_index(strategy) for strategy in found] == [0, 1, 2]
    first, second, third = (address.split(":") for address in addresses_of(found[0]))
    assert [first[0], second[0], third[0]] == ["n2", "n2", "n10"]
    assert int(second[1]) == int(first[1]) + 1 and third[1] == first[1]
    assert all(addresses_of(strategy) == addresses_of(found[0]) for strategy in found)


def test_groups_of_slurm_nodes_are_expanded(in_slurm):
    strategy = in_slurm(SLURM_STEP_NODELIST="a,b,c,d", SLURM_STEP_TASKS_PER_NODE="2(x3),1", SLURM_NODEID="3")
    assert distribution.num_workers(strategy) == 7 and distribution.worker_index(strategy) == 6


def test_jobs_and_steps_that_follow_each_other_have_different_ports(in_slurm):
    steps = [(job, step) for job in range(1000, 1004) for step in (0, 1, 30)]
    ports = {
        int(addresses_of(in_slurm(SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step)))[0].split(":")[1]) // 32
        for job, step in steps
    }
    assert len(ports) == len(steps)
    assert min(ports) * 32 > 1024 and max(ports) * 32 + 31 < 32_768


def test_tf_config_goes_before_slurm(in_slurm):
    config = config_of({"type": "worker", "index": 1}, worker=["a:1", "b:2"])
    strategy = in_slurm(TF_CONFIG=json.dumps(config))
    assert addresses_of(strategy) == ["a:1", "b:2"] and distribution.worker_index(strategy) == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SLURM_NODEID": "x"}, "SLURM_NODEID must be a number; received 'x'; start the workers with srun."),
        ({"SLURM_JOB_ID": ""}, "SLURM_JOB_ID must be a number; received ''; "),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x"}, r"must be counts such as 2\(x3\),1; received '2\(x'; "),
        ({"SLURM_STEP_TASKS_PER_NODE": "2"}, "a count for each of the 2 nodes in SLURM_STEP_NODELIST; received '2'; "),
        ({"SLURM_LOCALID": "2"}, "one of the tasks 2,1 on 2 nodes; received 0 and 2; "),
        ({"SLURM_NODEID": "2"}, "one of the tasks 2,1 on 2 nodes; received 2 and 0; "),
        (
            {"SLURM_STEP_NODELIST": "n[2"},
            r"cannot list the nodes in SLURM_STEP_NODELIST='n\[2' \(Invalid hostlist\); set",
        ),
        ({"PATH": ""}, "scontrol cannot list the nodes.*No such file.*; set TF_CONFIG instead"),
    ],
)
def test_invalid_slurm_variables_are_rejected_in_one_sentence(in_slurm, variables, words):
    with pytest.raises(UsageError, match=words) as caught:
        in_slurm(**variables)
    assert "\n" not in str(caught.value)


@pytest.mark.soak
def test_signal_handlers_are_restored_after_building_the_strategy():
    program = """
import os, signal
from clmr_tf.train.distribution import (build_strategy, num_workers)
signal.signal(signal.SIGTERM, lambda number, _: print("heard", number))
strategy = build_strategy("multi_worker")
os.kill(os.getpid(), signal.SIGTERM)
print(strategy.num_replicas_in_sync)
"""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # A single worker does not wait for others, but TensorFlow still installs its SIGTERM handler.
    environment = {**os.environ, "TF_CONFIG": json.dumps(config_of({"type": "worker", "index": 0}, worker=[address]))}
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert finished.stdout.splitlines() == ["heard 15", "1"], finished.stderr
