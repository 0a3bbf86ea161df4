"""Precedence of defaults, file and command line, and error messages for invalid settings."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest

from clmr_tf.config.command_line import from_json, parse_command, to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError


def parse(*arguments: str) -> TrainConfig:
    return parse_command(TrainConfig, arguments, program="train", description="Trains.")


def test_no_arguments_give_the_defaults():
    assert parse() == TrainConfig()
    assert parse().corpus == "demo"


def test_command_line_overrides_file_and_file_overrides_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("batch_size: 24\nwidth: 0.5\nlearning_rate: 1e-3\njit: true\nworkdir: runs/x\n")
    config = parse("--config", str(path), "--width", "0.25", "--no-jit")
    assert (config.batch_size, config.width, config.learning_rate, config.jit) == (24, 0.25, 1e-3, False)
    assert config.workdir == Path("runs/x")
    assert config.steps == TrainConfig().steps
    assert parse(f"--config={path}").jit is True


def test_keys_may_use_hyphens(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("batch-size: 24\n")
    assert parse("--config", str(path)).batch_size == 24


def test_written_configuration_can_be_loaded_again(tmp_path):
    config = TrainConfig(workdir=tmp_path / "a b", steps=5, temperature=0.1, sample_rate_hz=16000)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(config)))
    assert parse("--config", str(path)) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batchsize: 3", ["unknown setting `batchsize`", "`batch_size`"]),
        ("lerning_rate: 3", ["`learning_rate`"]),
        ("steps: many", ["`steps` must be a whole number", "'many'"]),
        ("steps: 1.5", ["`steps` must be a whole number", "1.5"]),
        ("jit: 1", ["`jit` must be true or false", "1"]),
        ("width: true", ["`width` must be a number", "True"]),
        ("optimizer: adm", ["`optimizer` must be one of", "'adm'"]),
        ("sample_rate_hz: 22050.0", ["`sample_rate_hz` must be one of", "22050.0"]),
        ("debug: true", ["`debug` is for the command line only"]),
        ("workdir: ''", ["`workdir` must be a path", "received ''"]),
        ("- steps", ["`name: value`", "list"]),
        ("steps: [", ["cannot be read"]),
    ],
)
def test_invalid_file_is_rejected_in_one_sentence(tmp_path, text, words):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        parse_command(TrainConfig, ["--config", str(path)], program="train", description="")
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert all(word in message for word in words), message


def test_missing_file_is_rejected(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere.* cannot be read"):
        parse("--config", str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--batchsize 3", "Unknown option `--batchsize`; did you mean `--batch-size`?"),
        ("--lerning-rate=3 --nonsense", "Unknown option `--lerning-rate`; did you mean `--learning-rate`?"),
        ("--no-jitt", "Unknown option `--no-jitt`; did you mean `--no-jit`?"),
        ("--hlep", "Unknown option `--hlep`; did you mean `--help`?"),
        ("--lr 3", "Unknown option `--lr`; --help lists all options."),
        ("--steps 3 music", "Unexpected argument `music`; see train --help."),
        ("--steps many", "`--steps` must be a whole number; received 'many'."),
        ("--steps=1.5", "`--steps` must be a whole number; received '1.5'."),
        ("--batch-size 3 --width wide", "`--width` must be a number; received 'wide'."),
        ("--schedule cos", "`--schedule` must be one of ['constant', 'cosine', 'plateau']; received 'cos'."),
        ("--sample-rate-hz 12", "`--sample-rate-hz` must be one of [22050, 16000, 8000]; received 12."),
        ("--corpus 7 --steps --jit", "`--steps` needs a value; see --help."),
        ("--workdir", "`--workdir` needs a value; see --help."),
        ("--config", "`--config` needs a value; see --help."),
        # Valid arguments of any type before the invalid one are not blamed.
        ("--augmentation-changes pitch.probability=0.5 --steps x", "`--steps` must be a whole number; received 'x'."),
        ("--augmentation-changes a b --steps x", "`--steps` must be a whole number; received 'x'."),
        ("--augmentation-changes=a --steps x", "`--steps` must be a whole number; received 'x'."),
        ("--augmentation-changes --steps x", "`--steps` must be a whole number; received 'x'."),
        ("--task 7 --steps x", "`--steps` must be a whole number; received 'x'."),
        ("--corpus 7 --steps x", "`--steps` must be a whole number; received 'x'."),
        ("--pretrained None --steps x", "`--steps` must be a whole number; received 'x'."),
        ("--learning-rate 1 --early-stopping 3 --steps x", "`--steps` must be a whole number; received 'x'."),
        ("--sample-rate-hz 8000 --schedule cosine --steps x", "`--steps` must be a whole number; received 'x'."),
        ("--jit --no-two-passes --steps x", "`--steps` must be a whole number; received 'x'."),
    ],
)
def test_invalid_command_line_is_rejected_in_one_sentence(capsys, arguments, sentence):
    with pytest.raises(UsageError) as caught:
        parse(*arguments.split())
    assert str(caught.value) == sentence
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["--workdir", ""], ["--steps", "3", "--workdir="], [""], ["--config="]])
def test_empty_argument_is_rejected(arguments):
    with pytest.raises(UsageError, match=r"^An argument is empty: `.*`; give it a value or remove it\.$"):
        parse(*arguments)


def test_help_documents_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "(default: 0.5)" in text and "Seed of everything random" in text
    # This default depends on the optimizer.
    assert 'Learning rate. Default: 3e-4; for "lars" 0.075 times the square root of the batch size' in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "--steps"),
        ({"batch_size": 1}, "--batch-size"),
        ({"seed": -1}, "--seed"),
        ({"width": 0.0}, "--width"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"learning_rate": float("inf")}, "--learning-rate"),
        ({"log_every": 0}, "--log-every"),
        ({"embeddings_every": -1}, "--embeddings-every"),
        ({"micro_batches": 0}, "--micro-batches must be at least 1"),
        ({"batch_size": 48, "micro_batches": 5}, "equal parts of at least 2; received 5 of 48"),
        ({"batch_size": 8, "micro_batches": 8}, "equal parts of at least 2; received 8 of 8"),
        ({"clip_norm": -1.0}, "--clip-norm"),
        ({"clip_norm": float("nan")}, "--clip-norm"),
        ({"weight_decay": -1e-6}, "--weight-decay"),
        ({"ema_momentum": 1.0}, "--ema-momentum must be from 0 to below 1"),
        ({"ema_momentum": -0.1}, "--ema-momentum"),
        ({"warmup_steps": -1}, "--warmup-steps"),
        ({"warmup_epochs": -1}, "--warmup-epochs"),
        ({"warmup_steps": 5, "warmup_epochs": 1}, "cannot be combined"),
        ({"decay_steps": -1}, "--decay-steps"),
        ({"epochs": -1}, "--epochs"),
        ({"steps_per_execution": 0}, "--steps-per-execution"),
        ({"num_replicas": -1}, "--num-replicas"),
        ({"num_replicas": 65}, "--num-replicas must be at most 64; received 65"),
        ({"validate_every": -1}, "--validate-every"),
        ({"num_validation_pairs": 0}, "--num-validation-pairs"),
        ({"worker_timeout_seconds": 0.0}, "--worker-timeout-seconds"),
        ({"worker_timeout_seconds": float("inf")}, "--worker-timeout-seconds must be at most 1000000; received inf"),
        ({"worker_timeout_seconds": 1_000_001.0}, "--worker-timeout-seconds"),
        ({"worker_timeout_seconds": float("nan")}, "--worker-timeout-seconds"),
        ({"max_skipped_fraction": 1.5}, "--max-skipped-fraction"),
        ({"best_metric": "probe_score"}, "probe_score needs --probe-every-epochs"),
        (
            {"best_metric": "validation_accuracy", "validate_every": 0},
            "--best-metric validation_accuracy needs --validate-every; received 0",
        ),
        ({"augmentation": "relesed"}, "released"),
        ({"corpus": ""}, "--corpus must name"),
    ],
)
def test_invalid_values_are_rejected(settings, words):
    with pytest.raises(UsageError, match=words):
        TrainConfig(**settings)


def test_optional_and_literal_types_are_checked():
    @dataclasses.dataclass(frozen=True)
    class Config:
        path: Path | None = None
        kind: Literal["a", "b"] = "a"

    assert from_json(Config, {"path": None}, where="here").path is None
    assert from_json(Config, {"path": "x"}, where="here").path == Path("x")
    with pytest.raises(UsageError, match="`path` must be a path"):
        from_json(Config, {"path": 3}, where="here")
    with pytest.raises(UsageError, match="`kind` must be one of"):
        from_json(Config, {"kind": "c"}, where="here")
