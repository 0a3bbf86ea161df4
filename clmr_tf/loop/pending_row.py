"""A row of the metrics that is still to be completed, kept through a stop or a kill."""

import json
from pathlib import Path

from clmr_tf.files import write_atomically


class PendingRow:
    """Keeps the scalars of a step from before its checkpoint is saved until everything about it is measured and logged.

    A run that ends in between resumes after that step, and could not know them any more.

    Args:
        path: File of the run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, step: int, scalars: dict[str, float]) -> None:
        """Remembers the scalars of a step; raises OSError if they cannot be written."""
        write_atomically(self._path, json.dumps({"step": step, "scalars": scalars}) + "\n")

    def read(self, step: int) -> dict[str, float] | None:
        """What was kept of a step, if it is still to be logged."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            return dict(kept["scalars"]) if kept["step"] == step else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def drop(self) -> None:
        """Forgets them: they are logged."""
        self._path.unlink(missing_ok=True)
