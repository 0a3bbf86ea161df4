"""Changing single settings of an augmentation preset by name."""

import dataclasses
import json

import pytest

from clmr_tf.config.augmentation import (
    AUGMENTATION_NAMES,
    AugmentationConfig,
    PitchConfig,
    Range,
    augmentation_config,
    augmentation_preset,
)
from clmr_tf.config.command_line import parse_command, to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError


def test_no_changes_give_the_preset():
    for preset in ("released", "thesis", "none", "only-gain"):
        assert augmentation_config(preset) == augmentation_preset(preset)


def test_only_named_settings_change():
    changes = [
        "pitch.probability=0.25",
        "pitch.cents=[-500, 300]",
        "delay.volume = 0.2",
        "delay.delay_ms=[100, 200, 25]",
    ]
    config = augmentation_config("released", changes)
    assert config.pitch == PitchConfig(0.25, Range(-500, 300))
    assert config.delay.volume == 0.2 and config.delay.delay_ms == Range(100, 200, 25)
    assert dataclasses.replace(config, pitch=PitchConfig(), delay=AugmentationConfig().delay) == AugmentationConfig()


def test_numbers_may_use_exponents_without_a_point():
    config = augmentation_config("thesis", ["noise.noise_to_signal=[1e-4, 1e-2]", "delay.volume=2e-1"])
    assert config.noise.noise_to_signal == Range(1e-4, 1e-2) and config.delay.volume == 0.2


def test_order_and_asymmetric_can_be_changed():
    order = AUGMENTATION_NAMES[::-1]
    config = augmentation_config("released", [f"order=[{', '.join(order)}]", "asymmetric=true"])
    assert config.order == order and config.asymmetric is True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("pitch", "NAME=VALUE, such as pitch.probability=0.5; received 'pitch'"),
        ("pich.probability=1", "no augmentation setting 'pich.probability'; did you mean `pitch.probability`"),
        ("pitch.sents=[1, 2]", "did you mean `pitch.cents`"),
        ("pitch=1", "no augmentation setting 'pitch'"),
        ("pitch.cents=500", "pitch.cents is a range, [minimum, maximum] or [minimum, maximum, step]; received 500"),
        ("pitch.cents=[1, 2, 3, 4]", "pitch.cents is a range"),
        ("pitch.cents=[700, -700]", "minimum 700 is above maximum -700"),
        ("pitch.cents=[-5000, 0]", "cents.minimum must be between -1200 and 1200"),
        ("pitch.probability=2", "probability must be between 0 and 1; received 2"),
        ("pitch.probability=often", "probability must be a finite number; received 'often'"),
        ("order=[pitch]", "order must name each of"),
        ("order=pitch", "order must be of type tuple"),
        ("asymmetric=1", "asymmetric must be of type bool"),
        ("pitch.cents=2020-99-99", "cannot be read"),
        (f"pitch.cents=[0, 1{400 * '0'}]", "is invalid"),
        ("pitch.cents=[", "cannot be read; write it as in YAML"),
    ],
)
def test_invalid_changes_are_rejected_in_one_sentence(change, words):
    with pytest.raises(UsageError) as refusal:
        augmentation_config("released", [change])
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_command_line_and_files_give_the_same_changes(tmp_path):
    changes = ("reverb.probability=0", "gain.gain_db=[-6, 0]")
    parsed = parse_command(TrainConfig, ["--augmentation-changes", *changes], program="train", description="")
    assert parsed.augmentation_changes == changes
    (tmp_path / "a.yaml").write_text("augmentation_changes:\n- reverb.probability=0\n- gain.gain_db=[-6, 0]\n")
    assert parse_command(TrainConfig, ["--config", str(tmp_path / "a.yaml")], program="train", description="") == parsed
    (tmp_path / "b.json").write_text(json.dumps(to_json(parsed)))
    assert parse_command(TrainConfig, ["--config", str(tmp_path / "b.json")], program="train", description="") == parsed
    (tmp_path / "c.yaml").write_text("augmentation_changes: reverb.probability=0\n")
    with pytest.raises(UsageError, match=r"`augmentation_changes` must be a list; received 'reverb.probability=0'"):
        parse_command(TrainConfig, ["--config", str(tmp_path / "c.yaml")], program="train", description="")
