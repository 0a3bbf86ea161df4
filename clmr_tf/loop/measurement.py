"""What is measured on the way, and where the chief keeps it."""

import dataclasses
from collections.abc import Callable, Mapping

from clmr_tf.loop.best_checkpoint import BestCheckpoint
from clmr_tf.loop.pending_row import PendingRow
from clmr_tf.run_log import RunLog


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Something that is measured now and then, and at the end of the run.

    Attributes:
        every: Steps between two measurements.
        measure: Gives scalars by name, which are logged with those of the step; calls its argument now and then.
    """

    every: int
    measure: Callable[[Callable[[], None]], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Record:
    """Where the chief keeps what a run leaves; other workers have none.

    Attributes:
        log: Curves and metrics.jsonl.
        pending: The row of a step that is saved and not logged yet.
        best: The best checkpoint.
    """

    log: RunLog
    pending: PendingRow
    best: BestCheckpoint
