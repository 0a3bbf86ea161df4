"""The search over heads: it chooses by the validation split, and a killed one ends like one that was not."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.probe.heads import fit_head, search
from clmr_tf.probe.protocols import HeadSettings

ROOT = Path(__file__).parents[3]
KEY = {"features": "gaussians", "seed": 0}
HEADS = [
    HeadSettings(
        hidden_units=hidden,
        learning_rate=rate,
        dropout=0.25,
        batch_size=16,
        patience=3,
        max_epochs=4,
        monitor="roc_auc",
    )
    for hidden in (0, 8)
    for rate in (1e-3, 1e-2, 1e-1)
]


def fit(settings: HeadSettings):
    """A head on 60 examples of four features, of which two of three tags can be told by."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((120, 4)).astype(np.float32)
    labels = (features[:, :3] + generator.standard_normal((120, 3)) > 0.5).astype(np.float32)
    return fit_head(features[:60], labels[:60], features[60:], labels[60:], settings, single_label=False, seed=0)


def search_slowly(journal: str) -> None:
    """What the process to be killed does."""

    def slow_fit(settings: HeadSettings):
        time.sleep(0.5)
        return fit(settings)

    search(HEADS, slow_fit, Path(journal), KEY)


def same(left, right) -> bool:
    (fit_of_left, *rest_of_left), (fit_of_right, *rest_of_right) = left, right
    weights = zip(fit_of_left.head.weights, fit_of_right.head.weights, strict=True)
    return rest_of_left == rest_of_right and all(np.array_equal(one, other) for one, other in weights)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return search(HEADS, fit, tmp_path_factory.mktemp("grid") / "grid.jsonl", KEY)


def test_the_head_that_is_best_on_the_validation_split_is_chosen(uninterrupted):
    best, settings, runs = uninterrupted
    assert [run["settings"] for run in runs] == [dataclasses.asdict(head) for head in HEADS]
    values = [fit(head).best_value for head in HEADS]
    assert [run["valid"] for run in runs] == values and len(set(values)) > 1
    assert settings == HEADS[int(np.argmax(values))] and best.best_value == max(values)


def test_a_killed_search_goes_on_where_it_was_and_ends_the_same(tmp_path, uninterrupted):
    journal = tmp_path / "grid.jsonl"
    code = f"from tests.clmr_tf.probe.test_grid import search_slowly; search_slowly({str(journal)!r})"
    # The same devices as those of this process.
    code = "import tests.conftest\n" + code
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if journal.is_file() and len(journal.read_text().splitlines()) >= 3:
                break
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    num_done = len(journal.read_text().splitlines()) - 1
    assert 2 <= num_done < len(HEADS)
    # As if it had been killed in the middle of a line.
    with journal.open("a") as file:
        file.write('{"settings": {"hidden_un')

    fitted, shown = [], []

    def counted_fit(settings):
        fitted.append(settings)
        return fit(settings)

    resumed = search(HEADS, counted_fit, journal, KEY, on_run=lambda done, of: shown.append((done, of)))
    assert same(resumed, uninterrupted)
    # Those that were not done, and the best once more.
    assert fitted == [*HEADS[num_done:], resumed[1]]
    assert shown == [(count, len(HEADS)) for count in range(1, len(HEADS) + 1)]
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_journal_of_something_else_is_started_anew(tmp_path, uninterrupted):
    journal = tmp_path / "grid.jsonl"
    search(HEADS[:2], fit, journal, {**KEY, "seed": 1})
    fitted = []
    search(HEADS[:2], lambda settings: fitted.append(settings) or fit(settings), journal, KEY)
    assert fitted[:2] == HEADS[:2]


def test_a_damaged_journal_is_done_again_and_said(tmp_path, caplog):
    journal = tmp_path / "grid.jsonl"
    expected = search(HEADS[:2], fit, journal, KEY)
    journal.write_text(journal.read_text().replace('"settings"', "settings"))
    assert same(search(HEADS[:2], fit, journal, KEY), expected)
    assert f"The journal {journal} is damaged" in caplog.text


def test_a_journal_of_another_machine_is_noticed(tmp_path, caplog):
    journal = tmp_path / "grid.jsonl"
    search(HEADS[:1], fit, journal, KEY)
    journal.write_text(journal.read_text().replace('"valid": 0.', '"valid": 0.9'))
    search(HEADS[:1], fit, journal, KEY)
    assert "another machine or another version" in caplog.text
