"""What this machine computes on: cores and GPUs. TensorFlow is loaded by those functions alone that ask it."""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

# Where NVIDIA's driver for Linux shows that there is a GPU.
_DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
_DEVICE_FOLDER = Path("/dev")


def num_usable_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    # macOS has no such call.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> dict[str, object]:
    """What a run computes on, as JSON data."""
    return {"machine": platform.machine(), "num_cpus": num_usable_cores(), "gpus": gpu_names()}


def gpu_names() -> list[str]:
    """The GPUs that TensorFlow can use, by name."""
    import tensorflow as tf

    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return [details.get("device_name", "unknown") for details in gpus]


def unusable_gpu() -> str | None:
    """One sentence on an NVIDIA GPU that TensorFlow cannot use and what to do; None if there is no such GPU."""
    import tensorflow as tf

    # Whoever sets this to nothing wants to compute on the CPU.
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "NoDevFiles")
    is_present = _DRIVER_FOLDER.is_dir() or any(_DEVICE_FOLDER.glob("nvidia[0-9]*"))
    if is_hidden or not is_present or tf.config.list_physical_devices("GPU"):
        return None
    return (
        f"This machine has an NVIDIA GPU that TensorFlow {tf.__version__} cannot use, so everything is computed on the "
        f"CPU; see with `nvidia-smi` whether the driver works, and install CUDA's libraries with "
        f"`pip install 'tensorflow[and-cuda]=={tf.__version__}'`."
    )
