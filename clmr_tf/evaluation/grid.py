"""Many heads, of which the validation split chooses one; a journal keeps every run that is done."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clmr_tf.evaluation.heads import Fit
from clmr_tf.evaluation.protocols import HeadSettings

_LOG = logging.getLogger(__name__)


def search(
    heads: Sequence[HeadSettings],
    fit: Callable[[HeadSettings], Fit],
    journal: Path,
    key: dict[str, Any],
    on_run: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Fit, HeadSettings, list[dict[str, Any]]]:
    """Fits all heads that the journal does not have yet, and the best of all once more for its weights.

    A run is a function of its settings, so fitting the best again gives the head that was measured, and a search that
    was interrupted ends like one that was not.

    Args:
        heads: What to try; monitored by something of which more is better.
        fit: Trains one.
        journal: File of the runs that are done, one JSON object a line; grows by a line a run.
        key: What decides the runs but for their settings: features, labels, seed. With another one, the journal is
            started anew.
        on_run: Is told how many runs are done, and of how many.

    Returns:
        The best fit, its settings, and a record of every run in the order of `heads`: {"settings", "valid",
        "best_step", "num_steps"}. On a tie the first wins.
    """
    # As they are read back: tuples become lists.
    key = json.loads(json.dumps(key))
    done = _read(journal, key)
    if done is None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")
        done = {}
    records = []
    for index, settings in enumerate(heads):
        plain = dataclasses.asdict(settings)
        name = json.dumps(plain, sort_keys=True)
        if name not in done:
            result = fit(settings)
            done[name] = {
                "settings": plain,
                "valid": result.best_value,
                "best_step": result.best_step,
                "num_steps": result.num_steps,
            }
            _append(journal, done[name])
        records.append(done[name])
        on_run(index + 1, len(heads))
    best = max(range(len(heads)), key=lambda index: records[index]["valid"])
    result = fit(heads[best])
    if result.best_value != records[best]["valid"]:
        _LOG.warning(
            "The best head gave %.6f on the validation split when it was searched, and %.6f now; the journal %s is "
            "of another machine or another version.",
            records[best]["valid"],
            result.best_value,
            journal,
        )
    return result, heads[best], records


def _append(journal: Path, record: dict[str, Any]) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(journal: Path, key: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The runs of a journal by their settings; None if there is none or it is of another key."""
    if not journal.is_file():
        return None
    text = journal.read_text(encoding="utf-8")
    whole, _, torn = text.rpartition("\n")
    if torn:
        # The process was killed in the middle of a line, which what is appended must not continue.
        with journal.open("r+", encoding="utf-8") as file:
            file.truncate(len(text.encode("utf-8")) - len(torn.encode("utf-8")))
    if not whole:
        return None
    try:
        head, *records = [json.loads(line) for line in whole.splitlines()]
        if head["key"] != key:
            return None
        return {json.dumps(record["settings"], sort_keys=True): record for record in records}
    except (ValueError, KeyError, TypeError) as error:
        _LOG.warning("The journal %s is damaged (%s); its runs are done again.", journal, error)
        return None
