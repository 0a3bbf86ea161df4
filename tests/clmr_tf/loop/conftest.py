"""What is around the training step does not depend on the network."""

from tests.tiny_network import _tiny_network  # noqa: F401 - a fixture
