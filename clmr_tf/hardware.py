"""Cores and GPUs of this machine. Only the functions on GPUs import TensorFlow."""

import os
import platform
from pathlib import Path

# NVIDIA's driver for Linux lists GPUs here.
_DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
_DEVICE_FOLDER = Path("/dev")
# In a container: how many microseconds of processor time it may use in how many, such as "400000 100000".
_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


def num_usable_cores() -> int:
    """Cores that this process may use; in a container, often fewer than the machine has."""
    # macOS has no sched_getaffinity.
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, _QUOTA_FILE.read_text(encoding="utf-8").split())
    # There is no file outside of containers, and "max" means no quota.
    except (OSError, ValueError):
        return num_cores
    return min(num_cores, max(1, round(quota / period)))


def hardware() -> dict[str, object]:
    """Machine type, number of cores and GPUs, as JSON data."""
    return {"machine": platform.machine(), "num_cpus": num_usable_cores(), "gpus": gpu_names()}


def gpu_names() -> list[str]:
    """Names of the GPUs that TensorFlow can use."""
    import tensorflow as tf

    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return [details.get("device_name", "unknown") for details in gpus]


def has_nvidia_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU that is not hidden from this process."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "NoDevFiles")
    return not is_hidden and (_DRIVER_FOLDER.is_dir() or any(_DEVICE_FOLDER.glob("nvidia[0-9]*")))


def unusable_gpu() -> str | None:
    """A sentence if there is an NVIDIA GPU that TensorFlow cannot use, with what to do; else None."""
    import tensorflow as tf

    if not has_nvidia_gpu() or tf.config.list_physical_devices("GPU"):
        return None
    return (
        f"This machine has an NVIDIA GPU that TensorFlow {tf.__version__} cannot use, so the CPU is used; check "
        f"the driver with `nvidia-smi`, and install the CUDA libraries with "
        f"`pip install 'tensorflow[and-cuda]=={tf.__version__}'`."
    )
