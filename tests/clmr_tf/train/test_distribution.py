"""How TF_CONFIG is read and validated."""

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

    def __init__(self):
        self.cluster_resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()


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
