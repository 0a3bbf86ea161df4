"""The experiments: what is trained, that nothing is done twice, and what is subtracted from what."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import experiments
from benchmarks.experiments import BASE, PAPER, VARIANTS, markdown
from clmr_tf.config.augmentation import augmentation_config
from clmr_tf.config.command_line import parse_command, to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError

SCORES = {PAPER: 0.5, BASE: 0.6, "temperature-0.2": 0.7}


class Recorder:
    """Stands for everything that takes long, and remembers what was asked for."""

    def __init__(self) -> None:
        self.trained: list[TrainConfig] = []
        self.probed = []

    def run(self, module: str, *arguments: str) -> None:
        config = parse_command(TrainConfig, arguments, program="train", description="")
        self.trained.append(config)
        config.workdir.mkdir(parents=True)
        rows = [{"step": step, "contrastive_accuracy": step / 100} for step in range(10, 101, 10)]
        (config.workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def probe(self, config):
        name, seed = config.model.parent.name.rsplit("-seed-", 1)
        self.probed.append((name, int(seed), config.task))
        # The test score is one hundredth higher for each seed, and all resamplings equal it.
        value = SCORES[name] + int(seed) / 100
        valid = {"mean": value - 0.2, "interval": [value - 0.3, value - 0.1]}
        paired = {"examples": "", "scores": {"average_precision": {"value": value, "resampled": [value] * 20}}}
        scores = {"valid": {"average_precision": {"over_tags": valid}}}
        return {"features": {"kind": "model"}, "scores": scores, "paired": paired}, None


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(experiments, "open_corpora", lambda music, labelled: None)
    monkeypatch.setattr(experiments, "run_module", recorder.run)
    monkeypatch.setattr(experiments, "export", lambda config: None)
    monkeypatch.setattr(experiments, "probe_model", recorder.probe)
    return recorder


def test_variants_differ_from_the_base_in_one_setting_that_training_accepts():
    """If one view is a plain crop, also in the number of passes."""
    defaults = to_json(TrainConfig())
    for name, changes in VARIANTS.items():
        assert changes.keys() <= defaults.keys()
        with_plain_view = name.startswith("augmentation-only-") or name == "augmentation-of-one-view"
        assert changes.get("two_passes", False) is with_plain_view
        assert len(changes) == (4 if name == PAPER else 0 if name == BASE else 1 + with_plain_view)


def test_all_variants_train_on_the_same_number_of_views(recorder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        Recorder,
        "probe",
        lambda self, config: ({"scores": {"valid": {"average_precision": {"over_tags": {"mean": 0.5}}}}}, None),
    )
    monkeypatch.setattr(experiments, "probe_model", recorder.probe)
    experiments.main(["--steps", "100", "--results", str(tmp_path)])
    assert len(recorder.trained) == len(VARIANTS) + 2
    expected = {
        BASE: (0.8, 0.6, False),
        "augmentation-without-filter": (0, 0.6, False),
        "augmentation-half": (0.4, 0.3, False),
        "augmentation-of-one-view": (0.8, 0.6, True),
        "augmentation-only-pitch": (0, 1, True),
    }
    for config in recorder.trained:
        assert config.steps * config.batch_size == 6400
        assert config.warmup_steps == round(config.steps / 20)
        name = config.workdir.parent.name.removesuffix("-seed-1")
        assert config.two_passes is VARIANTS.get(name, {}).get("two_passes", False)
        augmentations = augmentation_config(config.augmentation or "released", config.augmentation_changes)
        probabilities = (augmentations.filter.probability, augmentations.pitch.probability, augmentations.asymmetric)
        assert probabilities == expected.get(name, probabilities)
    rows = json.loads(capsys.readouterr().out)["validation"]
    assert len(rows) == len(recorder.trained)


def test_chosen_variants_are_tested_against_the_papers_recipe_and_nothing_is_done_twice(recorder, tmp_path, capsys):
    command = ["--steps", "100", "--results", str(tmp_path)]
    experiments.main([*command, "--variants", BASE, "temperature-0.2"])
    table = json.loads(capsys.readouterr().out)
    assert [(row["variant"], row["settings"]["seed"]) for row in table["validation"]] == [
        (BASE, 1),
        (BASE, 2),
        (BASE, 3),
        ("temperature-0.2", 1),
    ]
    assert table["test"] == []
    # A tenth of the ten rows is the last one.
    assert table["validation"][0]["contrastive_accuracy"] == pytest.approx(1.0)
    num_trained = len(recorder.trained)
    experiments.main([*command, "--variants", "--test", "temperature-0.2"])
    table = json.loads(capsys.readouterr().out)
    new = [(config.workdir.parent.name, config.temperature, config.seed) for config in recorder.trained[num_trained:]]
    assert new == [("paper-seed-1", 0.5, 1), ("paper-seed-2", 0.5, 2), ("temperature-0.2-seed-2", 0.2, 2)]
    for row in table["test"]:
        assert row["mean"] == pytest.approx(SCORES[row["variant"]] + row["seed"] / 100)
        if row["variant"] != PAPER:
            assert row["minus_paper"]["mean"] == pytest.approx(0.2)
            np.testing.assert_allclose(row["minus_paper"]["interval"], 0.2, rtol=1e-6)
    assert len(table["test"]) == 8
    text = markdown(table)
    assert "| temperature-0.2 (seed 2) | 100 | 1.00 | 0.520 | 0.520 |" in text
    assert "| temperature-0.2 | 2 | accompaniments | 0.720 (0.720 to 0.720) | +0.200 (+0.200 to +0.200) |" in text
    probes = list(recorder.probed)
    experiments.main([*command, "--variants", "--test", "temperature-0.2"])
    assert json.loads(capsys.readouterr().out) == table
    assert recorder.probed == probes


def test_results_of_another_length_are_not_mixed(recorder, tmp_path):
    experiments.main(["--steps", "100", "--results", str(tmp_path), "--variants", BASE])
    with pytest.raises(UsageError, match="the same --steps"):
        experiments.main(["--steps", "200", "--results", str(tmp_path), "--variants", BASE])
    assert {Path(config.workdir).parent.parent for config in recorder.trained} == {tmp_path}


def test_a_missing_corpus_and_a_folder_that_cannot_be_written_are_one_sentence(recorder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/results cannot be written .*; choose another folder with --results\."):
        experiments.main(["--results", str(tmp_path / "file" / "results"), "--variants", BASE])
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"no prepared corpus in .*music; make one, for example with python -m"):
        experiments.main(["--corpus", str(tmp_path / "music"), "--results", str(tmp_path / "new"), "--variants", BASE])
    assert not recorder.trained and not (tmp_path / "new").exists()
