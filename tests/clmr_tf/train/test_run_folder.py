"""The run folder: its lock, its configuration and its record of starts."""

import dataclasses
import shutil
import subprocess
import sys

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import UsageError
from clmr_tf.train.run_folder import opened_run_folder, read_config, read_record, record_start
from tests.synthetic import synthetic_corpus

CONFIG = TrainConfig(steps=10, width=0.5)
DEVICES = {"strategy": "single", "num_replicas": 1, "num_workers": 1}


@pytest.fixture
def corpus(tmp_path_factory):
    return synthetic_corpus(tmp_path_factory.mktemp("corpora") / "one", num_songs={"train": 2}, num_samples=64)


def start(workdir, config, corpus, first_step=0, num_replicas=1):
    with opened_run_folder(workdir, config):
        record_start(workdir, config, corpus, first_step, {**DEVICES, "num_replicas": num_replicas})


def test_configuration_is_written_at_the_first_start(tmp_path, corpus):
    workdir = tmp_path / "deep" / "run"
    with opened_run_folder(workdir, CONFIG):
        assert not (workdir / "config.json").exists()
    start(workdir, CONFIG, corpus)
    assert read_config(workdir) == CONFIG


@pytest.mark.parametrize("name", ["run [a]", "run*", "run?", "run\\a"])
def test_folder_with_glob_characters_is_rejected(tmp_path, name):
    with pytest.raises(UsageError, match="pattern"), opened_run_folder(tmp_path / name, CONFIG):
        pass
    assert not (tmp_path / name).exists()


def test_run_may_be_extended_but_not_changed(tmp_path, corpus):
    start(tmp_path, CONFIG, corpus)
    longer = dataclasses.replace(CONFIG, steps=20, log_every=1)
    start(tmp_path, longer, corpus)
    assert read_config(tmp_path).steps == 20
    other = dataclasses.replace(CONFIG, width=0.25, seed=1)
    with pytest.raises(UsageError, match=r"seed 42 -> 1, width 0\.5 -> 0\.25"), opened_run_folder(tmp_path, other):
        pass
    assert read_config(tmp_path) == longer


def test_cosine_run_can_only_be_extended_if_decay_steps_is_set(tmp_path, corpus):
    cosine = dataclasses.replace(CONFIG, schedule="cosine")
    start(tmp_path / "tied", cosine, corpus)
    for change, words in (({"steps": 20}, "steps 10 -> 20"), ({"epochs": 3}, "epochs 0 -> 3")):
        # Other runs may change this, so the message gives the reason.
        with pytest.raises(UsageError, match=rf"{words} \(--schedule cosine without --decay-steps reaches zero at the"):
            start(tmp_path / "tied", dataclasses.replace(cosine, **change), corpus, 5)
    start(tmp_path / "tied", dataclasses.replace(cosine, log_every=3), corpus, 5)
    apart = dataclasses.replace(cosine, decay_steps=30)
    start(tmp_path / "apart", apart, corpus)
    start(tmp_path / "apart", dataclasses.replace(apart, steps=20), corpus, 5)
    assert read_config(tmp_path / "apart").steps == 20


def test_validation_settings_of_a_plateau_run_cannot_change(tmp_path, corpus):
    plateau = dataclasses.replace(CONFIG, schedule="plateau")
    start(tmp_path, plateau, corpus)
    with pytest.raises(UsageError, match=r"validate_every 500 -> 5 \(with --schedule plateau, validations decide"):
        start(tmp_path, dataclasses.replace(plateau, validate_every=5), corpus, 5)
    start(tmp_path, dataclasses.replace(plateau, steps=20), corpus, 5)


@pytest.mark.soak
def test_second_process_is_rejected_until_the_first_ends(tmp_path):
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


def test_damaged_configuration_is_rejected(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"), opened_run_folder(tmp_path, CONFIG):
        pass


def test_every_start_is_recorded_with_corpus_versions_and_hardware(tmp_path, corpus):
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


def test_resuming_on_other_devices_warns(tmp_path, corpus, caplog):
    start(tmp_path, CONFIG, corpus)
    start(tmp_path, CONFIG, corpus, 3)
    several = dataclasses.replace(CONFIG, strategy="mirrored", num_replicas=2)
    # A start from step 0 has no earlier results to differ from.
    start(tmp_path, several, corpus, 0, num_replicas=2)
    assert caplog.messages == []
    start(tmp_path, CONFIG, corpus, 5)
    assert caplog.messages == [
        "The run resumes with 1 replica instead of 2; its numbers are equal up to rounding, not bit for bit."
    ]
    assert [one["num_replicas"] for one in read_record(tmp_path)["starts"]] == [1, 1, 2, 1]
    (tmp_path / "run.json").unlink()
    start(tmp_path, CONFIG, corpus, 9)
    assert len(caplog.messages) == 1


def test_changed_corpus_is_rejected_unless_allowed(tmp_path, corpus):
    other = synthetic_corpus(tmp_path / "other", num_songs={"train": 3}, num_samples=64)
    start(tmp_path / "run", CONFIG, corpus)
    with pytest.raises(UsageError, match="not the one that the run"):
        start(tmp_path / "run", CONFIG, other, 10)
    # The same corpus in another folder is no change.
    start(tmp_path / "run", CONFIG, Corpus.open(shutil.copytree(corpus.folder, tmp_path / "moved")), 10)
    start(tmp_path / "run", dataclasses.replace(CONFIG, allow_changed_corpus=True), other, 10)
    assert read_record(tmp_path / "run")["corpus"]["fingerprint"] == other.manifest.fingerprint
    # From now on this is the corpus of the run.
    with pytest.raises(UsageError, match="not the one that the run"):
        start(tmp_path / "run", CONFIG, corpus, 10)
    # Before the first checkpoint any corpus is fine.
    start(tmp_path / "run", CONFIG, corpus)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"starts": 3}', '{"starts": [], "corpus": "demo"}', '{"starts": [], "corpus": {}}']
)
def test_damaged_record_is_rejected_with_advice(tmp_path, corpus, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match=r"run\.json cannot be read; restore it from a copy, or delete it"):
        start(tmp_path, CONFIG, corpus)
