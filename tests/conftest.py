"""What holds for every test: two logical CPUs, an interrupt that can be tested, and the order of the files."""

import os
import signal

import pytest

# As the package sets them, since TensorFlow is imported first here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# A second thread of OpenBLAS waits on a core of its own, and so takes it from the other process of tests.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tensorflow as tf

# Before anything starts TensorFlow.
_CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)

# A shell starts what runs in its background with SIGINT ignored, and every process that a test starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first, or the process that gets one of them last would leave the other idle."""
    items.sort(key=lambda item: item.get_closest_marker("starts_first") is None)
