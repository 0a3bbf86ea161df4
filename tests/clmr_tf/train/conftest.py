"""Makes the small network available to tests that do not depend on the network."""

from tests.tiny_network import tiny_network  # noqa: F401 - a fixture
