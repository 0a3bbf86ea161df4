"""Syncing the log to disk, and errors while writing it."""

import contextlib
import json
import os
import resource
from pathlib import Path

import pytest
import tensorflow as tf

from clmr_tf.train.logs import RunLog


def open_log(tmp_path, **options) -> RunLog:
    return RunLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", -1, **options)


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_flush_syncs_rows_to_disk(tmp_path, monkeypatch):
    log = open_log(tmp_path)
    log.scalars(1, {"loss": 1.0})
    synced, sync = [], os.fsync

    def noted_sync(handle):
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    monkeypatch.setattr("os.fsync", noted_sync)
    log.flush()
    assert synced == ["metrics.jsonl"]


def test_write_errors_pass_through_the_given_context(tmp_path):
    failures = []

    @contextlib.contextmanager
    def explained(failure):
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            failures.append((failure, type(error)))

    log = open_log(tmp_path, explained=explained)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        log.scalars(1, {"loss": 1.0})
        log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {failure for failure, _ in failures} == {f"The log of the run could not be written to {tmp_path}"}
    # One error is of the row, the other of TensorBoard's file.
    kinds = [kind for _, kind in failures]
    assert OSError in kinds and any(issubclass(kind, tf.errors.OpError) for kind in kinds)


def test_incomplete_last_row_is_removed_by_the_next_start(tmp_path):
    log = open_log(tmp_path)
    log.scalars(1, {"loss": 1.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    log = RunLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", 5)
    log.scalars(2, {"loss": 2.0})
    log.close()
    assert [row["loss"] for row in rows(tmp_path)] == [1.0, 2.0]


def test_unwritable_row_raises(tmp_path):
    log = open_log(tmp_path)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        log.scalars(1, {"loss": 1.0})
