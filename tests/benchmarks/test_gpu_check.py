"""The GPU check on two logical CPUs: it passes, and it detects a wrong computation."""

import json

import pytest

from benchmarks.gpu_check import main
from clmr_tf.augment.effects.gain import Gain
from clmr_tf.console import run_command

SMALL = ["--batch-size", "4", "--width", "0.0625", "--num-steps", "1", "--augmentation", "only-gain"]


@pytest.mark.soak
def test_all_promises_hold_on_two_cpus_with_a_note_about_the_missing_gpu(capsys):
    assert run_command(main, SMALL) == 0
    output, notes = capsys.readouterr()
    result = json.loads(output)
    assert result["is_cpu_alone"] and result["num_devices"] == 2
    assert "shows nothing about a GPU" in notes and notes.count("holds: ") == len(result["promises"]) == 6
    assert all(0 <= promise["error"] <= promise["largest_error"] for promise in result["promises"].values())
    # bfloat16 has three digits; an error of zero would mean that float32 was compared with itself.
    assert result["promises"]["embeddings_bfloat16"]["error"] > 1e-4
    assert all(rate > 0 for rate in result["pairs_per_second"].values())
    assert all(0 < fraction < 1 for fraction in result["chain_fraction_of_step"].values())


@pytest.mark.soak
def test_different_computation_on_one_side_is_detected(capsys, monkeypatch):
    # Patches this process only; the other side runs in its own process.
    transform = Gain.transform
    monkeypatch.setattr(Gain, "transform", lambda *arguments: transform(*arguments) * 1.01)
    assert run_command(main, SMALL) == 1
    output, notes = capsys.readouterr()
    promises = json.loads(output)["promises"]
    assert not promises["views_float32"]["holds"] and promises["embeddings_float32"]["holds"]
    assert "DOES NOT HOLD: Every view equals the CPU's" in notes and "views_float32" in notes.splitlines()[-1]
