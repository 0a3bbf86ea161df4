"""Every command validates file and command line together, after merging them."""

from pathlib import Path

import pytest

from clmr_tf.augment.__main__ import AugmentConfig
from clmr_tf.config.command_line import parse_command
from clmr_tf.config.train import TrainConfig
from clmr_tf.embed import EmbedConfig
from clmr_tf.errors import UsageError
from clmr_tf.export.__main__ import ExportConfig
from clmr_tf.probe.settings import ProbeConfig
from clmr_tf.similar import SimilarConfig
from clmr_tf.tag import TagConfig
from pipelines.preparation.command import CorpusOptions
from pipelines.pseudo_tags import Options as PseudoTagOptions


def parse(*arguments: str) -> TrainConfig:
    return parse_command(TrainConfig, arguments, program="train", description="Trains.")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("objective: finetune", ["--pretrained", "model"], {"objective": "finetune", "pretrained": Path("model")}),
        ("pretrained: model", ["--objective", "finetune"], {"objective": "finetune", "pretrained": Path("model")}),
        ("micro_batches: 5", ["--batch-size", "50"], {"micro_batches": 5, "batch_size": 50}),
        ("best_metric: probe_score", ["--probe-every-epochs", "2"], {"probe_every_epochs": 2}),
        ("plateau_patience: 0", ["--plateau-patience", "1"], {"plateau_patience": 1}),
        ("steps: 0", ["--steps", "7"], {"steps": 7}),
    ],
)
def test_file_and_command_line_are_validated_together(tmp_path, text, arguments, expected):
    path = write(tmp_path / "run.yaml", text)
    config = parse("--config", path, *arguments)
    assert {name: getattr(config, name) for name in expected} == expected
    # The file is invalid without the option.
    with pytest.raises(UsageError):
        parse("--config", path)


def test_invalid_value_is_rejected_from_file_and_command_line(tmp_path):
    with pytest.raises(UsageError, match=r"--steps must be at least 1; received 0\."):
        parse("--config", write(tmp_path / "zero.yaml", "steps: 0"), "--width", "0.5")
    with pytest.raises(UsageError, match=r"--steps must be at least 1; received 0\."):
        parse("--config", write(tmp_path / "three.yaml", "steps: 3"), "--steps", "0")


@pytest.mark.parametrize(
    ("config_type", "wrong", "put_right"),
    [
        (ExportConfig, "tflite: fp8", ["--tflite", "fp16"]),
        (ProbeConfig, "seed: -1", ["--seed", "1"]),
        (EmbedConfig, "batch_size: 0", ["--batch-size", "2"]),
        (TagConfig, "top: 0", ["--top", "3"]),
        (SimilarConfig, "top: 0", ["--top", "3"]),
        (AugmentConfig, "num_views: 0", ["--num-views", "3"]),
        (CorpusOptions, "num_workers: 0", ["--num-workers", "3"]),
        (PseudoTagOptions, "num_windows: 0", ["--num-windows", "3"]),
    ],
)
def test_every_command_validates_the_merged_settings(tmp_path, config_type, wrong, put_right):
    path = write(tmp_path / "settings.yaml", wrong)
    name = wrong.partition(":")[0]
    config = parse_command(config_type, ["--config", path, *put_right], program="it", description="Does it.")
    assert str(getattr(config, name)) == put_right[1]
    with pytest.raises(UsageError, match=name.replace("_", "[-_]")):
        parse_command(config_type, ["--config", path], program="it", description="Does it.")


def test_last_of_two_files_is_used(tmp_path):
    first, second = write(tmp_path / "first.yaml", "steps: 3"), write(tmp_path / "second.yaml", "width: 0.5")
    config = parse("--config", first, f"--config={second}")
    assert (config.steps, config.width) == (TrainConfig().steps, 0.5)
