"""The hardware that training reports, and GPUs that TensorFlow cannot use."""

import os
import types

import pytest
import tensorflow as tf

from clmr_tf import hardware
from clmr_tf.hardware import num_usable_cores, unusable_gpu
from clmr_tf.train import distribution
from clmr_tf.train.distribution import devices_in_words


@pytest.fixture
def gpus(monkeypatch):
    """Sets the GPUs that TensorFlow finds."""

    def found(*names):
        devices = [types.SimpleNamespace(name=name) for name in names]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices if kind == "GPU" else [])
        monkeypatch.setattr(
            tf.config.experimental, "get_device_details", lambda gpu: {"device_name": gpu.name} if gpu.name else {}
        )

    return found


def strategy(num_replicas, num_workers=1):
    addresses = {"worker": [f"host{index}:1" for index in range(num_workers)]}
    cluster = types.SimpleNamespace(as_dict=lambda: addresses)
    resolver = types.SimpleNamespace(task_type="worker", cluster_spec=lambda: cluster) if num_workers > 1 else None
    return types.SimpleNamespace(num_replicas_in_sync=num_replicas, cluster_resolver=resolver)


@pytest.mark.parametrize(
    ("names", "replicas", "workers", "words"),
    [
        ([], 1, 1, "6 CPU cores"),
        ([], 2, 1, "6 CPU cores, in 2 replicas"),
        ([], 3, 3, "3 workers, this one with 6 CPU cores"),
        (["NVIDIA H200"], 1, 1, "1 GPU: NVIDIA H200"),
        (["NVIDIA H200", "NVIDIA T4"], 2, 1, "2 GPUs: NVIDIA H200, NVIDIA T4"),
        # A run on one device uses the first GPU.
        (["NVIDIA H200", "NVIDIA T4"], 1, 1, "1 GPU: NVIDIA H200"),
        (["NVIDIA H200", "NVIDIA H200"], 4, 2, "2 workers, this one with 2 GPUs: NVIDIA H200, NVIDIA H200"),
        ([""], 1, 1, "1 GPU: unknown"),
    ],
)
def test_devices_in_words_counts_devices_and_workers(monkeypatch, gpus, names, replicas, workers, words):
    gpus(*names)
    monkeypatch.setattr(distribution, "num_usable_cores", lambda: 6)
    assert devices_in_words(strategy(replicas, workers)) == words


def test_devices_in_words_uses_the_singular_for_one_core(monkeypatch, gpus):
    gpus()
    monkeypatch.setattr(distribution, "num_usable_cores", lambda: 1)
    assert devices_in_words(tf.distribute.get_strategy()) == "1 CPU core"


def test_usable_cores_are_those_of_the_process_or_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert num_usable_cores() == 3
    # As on macOS.
    monkeypatch.delattr(os, "sched_getaffinity")
    assert num_usable_cores() == 10
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert num_usable_cores() == 1


@pytest.mark.parametrize(("quota", "cores"), [("400000 100000", 4), ("50000 100000", 1), ("max 100000", 8)])
def test_usable_cores_are_at_most_the_quota_of_a_container(tmp_path, monkeypatch, quota, cores):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(hardware, "_QUOTA_FILE", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert num_usable_cores() == cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Device and driver folders of a machine without an NVIDIA GPU."""
    monkeypatch.setattr(hardware, "_DRIVER_FOLDER", tmp_path / "proc")
    monkeypatch.setattr(hardware, "_DEVICE_FOLDER", tmp_path / "dev")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    return tmp_path


@pytest.mark.parametrize("sign", ["proc", "dev/nvidia0", "dev/nvidia3"])
def test_unusable_gpu_is_reported_with_advice(machine, gpus, monkeypatch, sign):
    gpus()
    assert unusable_gpu() is None
    (machine / sign).mkdir()
    sentence = unusable_gpu()
    assert "NVIDIA GPU that TensorFlow" in sentence and "nvidia-smi" in sentence
    assert f"pip install 'tensorflow[and-cuda]=={tf.__version__}'" in sentence
    # Hidden on purpose.
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert unusable_gpu() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert unusable_gpu() == sentence
    gpus("NVIDIA H200")
    assert unusable_gpu() is None
