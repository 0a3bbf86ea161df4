"""One run per folder, one process per run, everything written down."""

import dataclasses
import json
import subprocess
import sys

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError
from clmr_tf.train.run_folder import opened_run_folder, read_config, read_record, record_start
from tests.synthetic import write_corpus

CONFIG = TrainConfig(steps=10, width=0.5)
DEVICES = {"strategy": "single", "num_replicas": 1, "num_workers": 1}


@pytest.fixture
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpora") / "one", num_songs={"train": 2}, num_samples=64)


def start(workdir, config, corpus, first_step=0, num_replicas=1):
    with opened_run_folder(workdir, config):
        record_start(workdir, config, corpus, first_step, {**DEVICES, "num_replicas": num_replicas})


def test_writes_the_configuration_once_the_run_can_begin(tmp_path, corpus):
    workdir = tmp_path / "deep" / "run"
    with opened_run_folder(workdir, CONFIG):
        assert not (workdir / "config.json").exists()
    start(workdir, CONFIG, corpus)
    assert read_config(workdir) == CONFIG


@pytest.mark.parametrize("name", ["run [a]", "run*", "run?", "run\\a"])
def test_a_folder_that_tensorflow_takes_for_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="pattern"), opened_run_folder(tmp_path / name, CONFIG):
        pass
    assert not (tmp_path / name).exists()


def test_a_run_may_go_on_longer_but_not_otherwise(tmp_path, corpus):
    start(tmp_path, CONFIG, corpus)
    longer = dataclasses.replace(CONFIG, steps=20, log_every=1)
    start(tmp_path, longer, corpus)
    assert read_config(tmp_path).steps == 20
    other = dataclasses.replace(CONFIG, width=0.25, seed=1)
    with pytest.raises(UsageError, match=r"seed 42 -> 1, width 0\.5 -> 0\.25"), opened_run_folder(tmp_path, other):
        pass
    assert read_config(tmp_path) == longer


def test_the_end_of_a_cosine_does_not_move_unless_it_was_set_apart_from_the_end_of_the_run(tmp_path, corpus):
    cosine = dataclasses.replace(CONFIG, schedule="cosine")
    start(tmp_path / "tied", cosine, corpus)
    for change, words in (({"steps": 20}, "steps 10 -> 20"), ({"epochs": 3}, "epochs 0 -> 3")):
        # Others may, so the reason is named.
        with pytest.raises(UsageError, match=rf"{words} \(--schedule cosine without --decay-steps reaches zero at the"):
            start(tmp_path / "tied", dataclasses.replace(cosine, **change), corpus, 5)
    start(tmp_path / "tied", dataclasses.replace(cosine, log_every=3), corpus, 5)
    apart = dataclasses.replace(cosine, decay_steps=30)
    start(tmp_path / "apart", apart, corpus)
    start(tmp_path / "apart", dataclasses.replace(apart, steps=20), corpus, 5)
    assert read_config(tmp_path / "apart").steps == 20


def test_what_a_plateau_is_measured_on_does_not_change(tmp_path, corpus):
    plateau = dataclasses.replace(CONFIG, schedule="plateau")
    start(tmp_path, plateau, corpus)
    with pytest.raises(UsageError, match=r"validate_every 500 -> 5 \(with --schedule plateau, validations decide"):
        start(tmp_path, dataclasses.replace(plateau, validate_every=5), corpus, 5)
    start(tmp_path, dataclasses.replace(plateau, steps=20), corpus, 5)


def test_a_second_process_is_refused_and_the_lock_dies_with_its_holder(tmp_path):
    code = f"""
import sys, time
from pathlib import (Path)
from clmr_tf.config.train import (TrainConfig)
from clmr_tf.train.run_folder import (opened_run_folder)
with opened_run_folder(Path({str(tmp_path)!r}), TrainConfig(steps=10, width=0.5)):
    print("in", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(UsageError, match="Another process"), opened_run_folder(tmp_path, CONFIG):
            pass
        other.kill()
        other.wait()
    with opened_run_folder(tmp_path, CONFIG):
        pass


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"), opened_run_folder(tmp_path / "file" / "run", CONFIG):
        pass


def test_a_damaged_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"), opened_run_folder(tmp_path, CONFIG):
        pass


def test_every_start_is_recorded_with_what_it_ran_on(tmp_path, corpus):
    start(tmp_path, CONFIG, corpus)
    start(tmp_path, CONFIG, corpus, 30)
    run = read_record(tmp_path)
    assert run["corpus"]["fingerprint"] == corpus.manifest.fingerprint
    assert run["corpus"]["num_songs"] == {"train": 2}
    seconds = sum(item.num_samples for item in corpus.items) / 22050
    assert run["corpus"]["hours"] == pytest.approx({"train": seconds / 3600})
    assert [one["first_step"] for one in run["starts"]] == [0, 30]
    first = run["starts"][0]
    assert first["versions"]["keras"] and first["versions"]["python"] == sys.version.split()[0]
    assert first["hardware"]["num_cpus"] >= 1
    assert DEVICES.items() <= first.items()


def test_other_devices_may_go_on_with_a_run_and_it_is_said(tmp_path, corpus, caplog):
    start(tmp_path, CONFIG, corpus)
    start(tmp_path, CONFIG, corpus, 3)
    several = dataclasses.replace(CONFIG, strategy="mirrored", num_replicas=2)
    # Nothing was done before that could be of other roundings.
    start(tmp_path, several, corpus, 0, num_replicas=2)
    assert caplog.messages == []
    start(tmp_path, CONFIG, corpus, 5)
    assert caplog.messages == [
        "The run resumes with 1 replica instead of 2; its numbers are equal up to rounding, not bit for bit."
    ]
    assert [one["num_replicas"] for one in read_record(tmp_path)["starts"]] == [1, 1, 2, 1]
    # Of a run of an earlier version nobody knows.
    record = json.loads((tmp_path / "run.json").read_text())
    del record["starts"][-1]["num_replicas"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    start(tmp_path, several, corpus, 7, num_replicas=2)
    (tmp_path / "run.json").unlink()
    start(tmp_path, CONFIG, corpus, 9)
    assert len(caplog.messages) == 1


def test_a_run_does_not_go_on_with_other_music(tmp_path, corpus):
    other = write_corpus(tmp_path / "other", num_songs={"train": 3}, num_samples=64)
    start(tmp_path / "run", CONFIG, corpus)
    with pytest.raises(UsageError, match="not the one that the run"):
        start(tmp_path / "run", CONFIG, other, 10)
    start(tmp_path / "run", dataclasses.replace(CONFIG, allow_changed_corpus=True), other, 10)
    assert read_record(tmp_path / "run")["corpus"]["fingerprint"] == other.manifest.fingerprint
    # From then on it is the corpus of the run.
    with pytest.raises(UsageError, match="not the one that the run"):
        start(tmp_path / "run", CONFIG, corpus, 10)
    # Before the first checkpoint there is nothing to mix up.
    start(tmp_path / "run", CONFIG, corpus)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"starts": 3}', '{"starts": [], "corpus": "demo"}', '{"starts": [], "corpus": {}}']
)
def test_a_damaged_record_is_refused_with_a_way_out(tmp_path, corpus, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match=r"run\.json cannot be read; restore it from a copy, or delete it"):
        start(tmp_path, CONFIG, corpus)
