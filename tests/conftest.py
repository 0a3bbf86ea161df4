"""Settings for every test: two logical CPUs, the default SIGINT handler, and the order of the files."""

import importlib.util
import os
import signal

import pytest

# The package sets these too, but TensorFlow is imported here first.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# A second OpenBLAS thread would spin on a core that another test process needs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The tests of inference also run where TensorFlow is not installed.
if importlib.util.find_spec("tensorflow"):
    import tensorflow as tf

    # Logical devices must be set before TensorFlow initializes.
    _CPU = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

# Shells start background jobs with SIGINT ignored, which the processes of the tests would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first, so that no test process starts one last while the others are idle."""
    items.sort(key=lambda item: item.get_closest_marker("starts_first") is None)
