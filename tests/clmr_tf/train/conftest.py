"""The small network, for tests of what does not depend on the network."""

from tests.tiny_network import tiny_network  # noqa: F401 - a fixture
