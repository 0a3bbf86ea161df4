"""The search over heads chooses by the validation split, and continues after an interruption."""

import dataclasses
import json

import numpy as np
import pytest

from clmr_tf.probe.heads import fit_head, search
from clmr_tf.probe.protocols import HeadSettings

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
    """A head for three noisy tags, on 60 examples of four features."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((120, 4)).astype(np.float32)
    labels = (features[:, :3] + generator.standard_normal((120, 3)) > 0.5).astype(np.float32)
    return fit_head(features[:60], labels[:60], features[60:], labels[60:], settings, single_label=False, seed=0)


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


def test_an_interrupted_search_continues_and_gives_the_same_result(tmp_path, uninterrupted):
    journal, num_done = tmp_path / "grid.jsonl", 2

    def fit_until_killed(settings):
        if settings == HEADS[num_done]:
            raise KeyboardInterrupt
        return fit(settings)

    with pytest.raises(KeyboardInterrupt):
        search(HEADS, fit_until_killed, journal, KEY)
    assert len(journal.read_text().splitlines()) == 1 + num_done
    # A process that is killed may leave an incomplete line.
    with journal.open("a") as file:
        file.write('{"settings": {"hidden_un')

    fitted, progress = [], []

    def counted_fit(settings):
        fitted.append(settings)
        return fit(settings)

    resumed = search(HEADS, counted_fit, journal, KEY, on_run=lambda done, total: progress.append((done, total)))
    assert same(resumed, uninterrupted)
    # Those that were not done, and the best once more.
    assert fitted == [*HEADS[num_done:], resumed[1]]
    assert progress == [(count, len(HEADS)) for count in range(1, len(HEADS) + 1)]
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_journal_with_another_key_is_overwritten(tmp_path):
    journal = tmp_path / "grid.jsonl"
    search(HEADS[:2], fit, journal, {**KEY, "seed": 1})
    fitted = []
    search(HEADS[:2], lambda settings: fitted.append(settings) or fit(settings), journal, KEY)
    assert fitted[:2] == HEADS[:2]


def test_a_damaged_journal_is_repeated_with_a_warning(tmp_path, caplog):
    journal = tmp_path / "grid.jsonl"
    expected = search(HEADS[:2], fit, journal, KEY)
    journal.write_text(journal.read_text().replace('"settings"', "settings"))
    assert same(search(HEADS[:2], fit, journal, KEY), expected)
    assert f"The journal {journal} is damaged" in caplog.text


def test_a_journal_of_another_machine_causes_a_warning(tmp_path, caplog):
    journal = tmp_path / "grid.jsonl"
    search(HEADS[:1], fit, journal, KEY)
    journal.write_text(journal.read_text().replace('"valid": 0.', '"valid": 0.9'))
    search(HEADS[:1], fit, journal, KEY)
    assert "another machine or another version" in caplog.text
