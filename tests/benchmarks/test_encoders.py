"""The benchmark of encoders: work counted as by hand, and consistent figures of speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.flop import forward_flop
from clmr_tf.models.encoders import build_encoder
from tests.synthetic import synthetic_corpus

ROOT = Path(__file__).parents[2]


def mel_flop(channels: list[int]) -> int:
    """114 frames: 255 even and 256 odd frequencies on a quarter of a window, 64 bands, then images of half the size."""
    products = 114 * ((257 + 255) * 255 + 2 * 256 * 256 + 511 * 64)
    sizes = [114 * 64, 57 * 32, 28 * 16, 14 * 8, 7 * 4]
    products += sum(9 * size * b * a for size, b, a in zip(sizes, [1, *channels], channels, strict=False))
    return 2 * (products + channels[-1] * 512)


def test_the_work_of_a_view_is_counted_as_by_hand():
    # The last two are from the table of layers of TUNe's publication.
    counted = {name: forward_flop(build_encoder(name), (59049,)) for name in ("sample_cnn", "mel_cnn", "tune")}
    assert counted["sample_cnn"] / 1e9 == pytest.approx(3.46, abs=0.005)
    assert counted["mel_cnn"] == mel_flop([64, 128, 256, 512, 1024])
    assert counted["tune"] / 1e9 == pytest.approx(1.67, abs=0.005)


@pytest.mark.soak
def test_all_figures_of_speed_are_there(tmp_path):
    corpus = synthetic_corpus(tmp_path / "corpus", num_songs={"train": 5})
    size = ["--widths", 0.0625, "--batch-size", 2, "--window-batch-size", 2, "--repeats", 1]
    command = [
        sys.executable,
        "-m",
        "benchmarks.encoders",
        "--speed",
        "--encoders",
        "mel_cnn",
        "--corpus",
        corpus.folder,
    ]
    done = subprocess.run(
        [str(word) for word in (*command, *size)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    [row] = result["rows"]
    assert (row["encoder"], row["width"]) == ("mel_cnn", 0.0625)
    assert row["gflop_per_view"] * 1e9 == pytest.approx(mel_flop([8, 8, 16, 32, 64]), rel=1e-9)
    for rates in (row["training_pairs_per_second"], row["windows_per_second"]):
        for name, rate in rates.items():
            # A view of 2.7 s is at least 100,000 instructions.
            assert (rate is None) == (name in result["absent"]) and (rate is None or 0 < rate < 100_000)
    assert set(row["windows_per_second"]) == {"tensorflow", "litert_float32", "litert_int8", "onnx"}
