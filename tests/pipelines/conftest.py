"""Decoding in the test's own process, for tests that are about something else than worker processes."""

import pytest

from clmr_tf.audio.isolation import Outcome


def run_in_this_process(function, tasks, **_):
    for task in tasks:
        try:
            yield Outcome(function(task))
        except Exception as error:  # noqa: BLE001 - as the worker processes do it
            yield Outcome(None, error)


@pytest.fixture
def no_workers(monkeypatch):
    monkeypatch.setattr("pipelines.preparation.prepare.run_in_workers", run_in_this_process)
