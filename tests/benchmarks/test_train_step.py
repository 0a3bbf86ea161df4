"""The training step benchmark as real processes: one JSON object with consistent figures."""

import json
import stat
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from clmr_tf.hardware import num_usable_cores
from tests.synthetic import synthetic_corpus

ROOT = Path(__file__).parents[2]

# Stands for a Python with PyTorch: reports two seconds per step.
STAND_IN = """#!{python}
import json, sys
answers = {{"steps": {{"seconds": [2.0]}}, "memory": {{"peak_megabytes": 5.0}}}}
print(json.dumps({{"version": " ".join(sys.argv[1:])}}), flush=True)
for line in sys.stdin:
    print(json.dumps(answers[json.loads(line)[0]]), flush=True)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train_step")
    corpus = synthetic_corpus(folder / "corpus", num_songs={"train": 5})
    python = folder / "python"
    python.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    begin = time.perf_counter()
    size = ["--width", 0.0625, "--batch-size", 2, "--repeats", 2, "--quick"]
    command = [sys.executable, "-m", "benchmarks.train_step", "--corpus", corpus.folder, "--pytorch-python", python]
    finished = subprocess.run(
        [str(word) for word in (*command, *size)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout), time.perf_counter() - begin


def gflop_per_pair(channels: list[int]) -> float:
    """Follows the paper's layer table: 59,049 samples, stride 3, then nine convolutions of 3 with pooling by 3."""
    frames = [3**9, *(3**power for power in range(9, 0, -1)), 1]
    inputs = [1, *channels[:-1]]
    weights = [3 * before * after for before, after in zip(inputs, channels, strict=True)]
    products = sum(count * size for count, size in zip(frames, weights, strict=True)) + 512 * 512 + 512 * 64
    # Multiply and add; forward, and backward for inputs and weights; two views.
    return 2 * products * 3 * 2 / 1e9


@pytest.mark.soak
def test_all_figures_are_present_and_absent_ones_are_listed(measured):
    result, elapsed = measured
    assert set(result) == {
        "batch_size",
        "width",
        "num_cpus",
        "gflop_per_pair",
        "step_seconds",
        "step_seconds_of_rounds",
        "gflop_per_second",
        "matmul_gflop_per_second",
        "fraction_of_matmul_peak",
        "bf16_over_float32",
        "ratio_to_pytorch",
        "ratio_to_pytorch_bf16",
        "input_wait_fraction",
        "peak_megabytes",
        "loss_peak_megabytes",
        "checkpoint_save_seconds",
        "checkpoint_every",
        "checkpoint_fraction",
        "jit_over_float32",
        "jit_compile_seconds",
        "absent",
        "versions",
    }
    assert (result["batch_size"], result["width"]) == (2, 0.0625)
    assert result["num_cpus"] == num_usable_cores()
    assert result["absent"]["jit"] == "not requested" and "pytorch" not in result["absent"]
    assert result["jit_over_float32"] is None and result["jit_compile_seconds"] is None
    assert ("bf16" in result["absent"]) == (result["bf16_over_float32"] is None)
    kinds = {"float32", "bf16", "pytorch"} - set(result["absent"])
    for figures in ("step_seconds", "step_seconds_of_rounds", "gflop_per_second", "peak_megabytes", "versions"):
        assert set(result[figures]) == kinds
    # The arguments of the other Python.
    arguments = f"-m benchmarks.pytorch_step --batch-size 2 --width 0.0625 --num-threads {result['num_cpus']}"
    assert result["versions"]["pytorch"] == arguments
    # Five steps take a small part of the time of starting three processes.
    assert 0 < result["step_seconds"]["float32"] < elapsed / 10


@pytest.mark.soak
def test_gflop_per_pair_equals_the_layer_table(measured):
    result, _ = measured
    assert result["gflop_per_pair"] == pytest.approx(gflop_per_pair([8, 8, 8, *[16] * 6, 512, 512]), rel=1e-9)
    # The same sum at full width, known from the paper's table.
    assert gflop_per_pair([128, 128, 128, *[256] * 6, 512, 512]) == pytest.approx(20.7, abs=0.05)


@pytest.mark.soak
def test_ratios_follow_from_the_times(measured):
    result, _ = measured
    seconds, rate = result["step_seconds"], result["gflop_per_second"]
    for kind, rounds in result["step_seconds_of_rounds"].items():
        assert len(rounds) == 2 and seconds[kind] == pytest.approx(median(rounds))
        assert rate[kind] * seconds[kind] == pytest.approx(2 * result["gflop_per_pair"])
    peak = max(result["matmul_gflop_per_second"].values())
    assert result["fraction_of_matmul_peak"] == pytest.approx(rate["float32"] / peak)
    assert 0 < result["fraction_of_matmul_peak"] < 1
    assert seconds["pytorch"] == 2.0
    assert result["ratio_to_pytorch"] == pytest.approx(2.0 / seconds["float32"])
    if "bf16" in seconds:
        assert result["bf16_over_float32"] == pytest.approx(seconds["float32"] / seconds["bf16"])
        assert result["ratio_to_pytorch_bf16"] == pytest.approx(2.0 / seconds["bf16"])
    fraction = result["checkpoint_save_seconds"] / (result["checkpoint_every"] * seconds["float32"])
    assert result["checkpoint_fraction"] == pytest.approx(fraction) and fraction > 0
    assert 0 <= result["input_wait_fraction"] < 1


@pytest.mark.soak
def test_peak_memory_is_plausible(measured):
    result, _ = measured
    assert 200 < result["peak_megabytes"]["float32"] < 5000
    # At least the similarity matrix of 4,096 views.
    assert 4096 * 4096 * 4 / 2**20 < result["loss_peak_megabytes"] < 200
