"""Makes the small network available to tests that do not depend on the network, and stands for Slurm's scontrol."""

import pytest

from tests.tiny_network import tiny_network  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def scontrol(tmp_path_factory):
    """A folder with a `scontrol show hostnames`, which splits at commas and knows no ranges."""
    folder = tmp_path_factory.mktemp("slurm")
    program = folder / "scontrol"
    program.write_text(
        '#!/bin/sh\ncase $3 in *[[]*) echo "Invalid hostlist" >&2; exit 1;; esac\necho "$3" | tr , "\\n"\n'
    )
    program.chmod(0o755)
    return folder
