"""The benchmarks of exported models: correct input and consistent figures."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.embed import write_music
from clmr_tf.audio.decoding import load_audio
from clmr_tf.export.runtimes import FORMATS, add_runtime_files
from clmr_tf.hardware import num_usable_cores
from tests.clmr_tf.probed import TAGS, tiny_model, write_tiny_model
from tests.synthetic import synthetic_corpus

ROOT = Path(__file__).parents[2]
RUNTIMES = {"clmr_tf", "saved_model", *FORMATS}

# Stands for a Python with PyTorch: reports 50 seconds for the 22 windows of two files, and two seconds for every call.
STAND_IN = """#!{python}
import json, sys
answers = {{"embed": {{"seconds": 50.0, "num_windows": 22}}, "windows": {{"seconds": [2.0]}}}}
print(json.dumps({{"version": " ".join(sys.argv[1:4])}}), flush=True)
for line in sys.stdin:
    print(json.dumps(answers[json.loads(line)[0]]), flush=True)
"""


def result_of(name: str, *arguments: object) -> dict:
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_pytorch_gets_the_decoded_audio_of_the_files(tmp_path):
    seconds = write_music(tmp_path, 2)
    files = sorted((tmp_path / "music").iterdir())
    assert [soundfile.info(file).format for file in files] == ["MP3", "OGG"]
    decoded = [np.load(path) for path in sorted((tmp_path / "decoded").iterdir())]
    for file, samples in zip(files, decoded, strict=True):
        np.testing.assert_array_equal(samples, load_audio(file, 22050))
    assert sum(map(len, decoded)) / 22050 == pytest.approx(seconds) and seconds > 40


@pytest.mark.soak
def test_embed_ratios_follow_from_the_times(tmp_path):
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    size = ("--width", 0.0625, "--num-files", 2, "--batch-size", 4, "--repeats", 2, "--latency-repeats", 2)
    result = result_of("embed", *size, "--pytorch-python", python)
    assert result["absent"] == {} and result["num_cpus"] == num_usable_cores()
    assert set(result["runtimes"]) == set(result["versions"]) == RUNTIMES | {"pytorch"}
    assert result["versions"]["pytorch"] == "-m benchmarks.pytorch_embedding --width"
    assert result["audio_seconds"] == pytest.approx(60, abs=0.1)
    assert 0 < result["decoding_seconds"] < result["embed_seconds"]
    assert result["real_time"] * result["embed_seconds"] == pytest.approx(result["audio_seconds"])
    assert result["real_time"] / result["num_cpus"] < 1.2 * result["real_time_per_core"]
    assert result["ratio_to_pytorch"] == pytest.approx(50 / result["embed_seconds"])
    with_decoding = (50 + result["decoding_seconds"]) / result["embed_seconds"]
    assert result["ratio_to_pytorch_with_decoding"] == pytest.approx(with_decoding)
    for row in result["runtimes"].values():
        assert row["ratio_to_pytorch"] == pytest.approx(row["windows_per_second"] / 2)


@pytest.mark.soak
def test_runtime_accuracy_compares_every_file_with_the_encoder(tmp_path):
    songs = {"train": 14, "valid": 6, "test": 10}
    corpus = synthetic_corpus(tmp_path / "corpus", num_songs=songs, num_samples=120_000, tag_names=TAGS)
    model = write_tiny_model(tiny_model(), tmp_path / "model")
    add_runtime_files(model, list(FORMATS))
    result = result_of("runtime_accuracy", "--model", model, "--corpus", corpus.folder)
    assert result["num_windows"] == {split: 2 * count for split, count in songs.items()}
    rows = result["rows"]
    assert set(rows) == {"encoder", "int8 calibrated", *FORMATS}
    for kind in ("fp32", "onnx"):
        assert rows[kind]["cosine"]["least"] > 0.99999 and rows[kind]["points_lost"] == {"score": 0, "clip_score": 0}
    for kind in FORMATS:
        lost = 100 * (rows["encoder"]["score"] - rows[kind]["score"])
        assert rows[kind]["points_lost"]["score"] == pytest.approx(lost)
        assert rows[kind]["cosine"]["least"] <= rows[kind]["cosine"]["5_percent"] <= rows[kind]["cosine"]["median"]
    assert rows["int8"]["cosine"]["least"] > 0.99
