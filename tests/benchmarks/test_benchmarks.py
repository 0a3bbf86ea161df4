"""The benchmarks as real processes: one JSON object each, with figures that can be true."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.original_augmentations import sox_cpu_seconds
from clmr_tf.console import run_command
from tests.synthetic import write_corpus

ROOT = Path(__file__).parents[2]
NUM_CPUS = os.cpu_count() or 1


def result_of(name: str, *arguments: object, **environment: str) -> dict:
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    everything = {**os.environ, **environment}
    finished = subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_reading_pairs_of_a_prepared_corpus(tmp_path):
    # What looks like markup or an emoji in a name must reach the output as it is.
    corpus = write_corpus(tmp_path / "live [bold] :cat:", num_songs={"train": 5})
    begin = time.perf_counter()
    result = result_of("clips", "--corpus", corpus.folder, "--batch-size", 4, "--num-batches", 3)
    elapsed_ms = 1000 * (time.perf_counter() - begin)

    keys = {"corpus", "num_pairs", "cpu_ms_per_pair", "wall_ms_per_pair", "pairs_per_core_second"}
    assert set(result) == keys
    assert (result["corpus"], result["num_pairs"]) == ("live [bold] :cat:", 12)
    assert result["pairs_per_core_second"] * result["cpu_ms_per_pair"] == pytest.approx(1000, rel=1e-6)
    # 0.01 ms is below what copying a pair takes; the whole process took longer than the part that is timed.
    assert 0.01 < result["cpu_ms_per_pair"] < elapsed_ms * NUM_CPUS / 12
    assert 0.01 < result["wall_ms_per_pair"] < elapsed_ms / 12


def test_the_direct_reader_against_prepared_pcm():
    begin = time.perf_counter()
    result = result_of("direct_reader", "--num-crops", 20, "--max-seconds", 4, "--songs", "wav")
    elapsed_ms = 1000 * (time.perf_counter() - begin)

    assert result["crop_num_samples"] == 59049 and result["sample_rate_hz"] == 22050
    assert result["num_crops"] == 20
    assert set(result["versions"]) == {"tensorflow", "tensorflow-io", "libsndfile"}
    assert list(result["songs"]) == ["wav"]
    song = result["songs"]["wav"]
    assert song["song"] == {"rate_hz": 44100, "num_channels": 2, "seconds": 4}
    # 4 s of 16-bit stereo.
    assert song["file_megabytes"] == pytest.approx(4 * 44100 * 4 / 1e6, abs=0.006)
    times_ms = [result["pcm_ms"], song["crop_ms"], song["of_that_resampling_ms"], song["libsndfile_ms"]]
    assert all(0.01 <= milliseconds < elapsed_ms / 20 for milliseconds in times_ms)
    # Decoding and resampling 2.7 s from 44.1 kHz is many times the work of copying them.
    assert song["crop_ms"] > 2 * result["pcm_ms"]
    lowest, highest = result["pcm_ms"] - 0.005, result["pcm_ms"] + 0.005
    assert (song["crop_ms"] - 0.005) / highest - 0.05 <= song["times_pcm"] <= (song["crop_ms"] + 0.005) / lowest + 0.05


@pytest.mark.soak
def test_the_augmentations_against_a_step_where_nothing_is_there_of_the_original(tmp_path):
    begin = time.perf_counter()
    places = ["--corpora", tmp_path, "--original", tmp_path / "nothing here"]
    once = ["--width", 0.0625, "--repetitions", 1, "--step-repetitions", 1]
    # No folder of programs, so no sox.
    result = result_of("augment", *places, *once, PATH=str(tmp_path / "no programs"))
    elapsed_ms = 1000 * (time.perf_counter() - begin)

    assert (result["num_views"], result["step_width"]) == (96, 0.0625)
    costs = result["chain_cpu_ms_per_view"]
    assert list(costs) == ["16", "96", "384"]
    # 0.1 ms is below what two transforms of a view take.
    assert all(0.1 < cost < elapsed_ms / int(num_views) for num_views, cost in costs.items())
    parts = result["parts_on_every_view_cpu_ms"]
    assert list(parts) == ["polarity", "noise", "gain", "filter", "delay", "pitch", "reverb"]
    assert min(parts.values()) > 0.005 and parts["pitch"] > parts["polarity"]
    # It is a part of every filter.
    assert 0.005 < result["transform_pair_cpu_ms_per_view"] < 2 * parts["filter"]
    memory = [result["peak_memory_mb"][key] for key in ("before", "16", "96", "384")]
    # 384 views are 90 MB, and there must be at least the input and the output of a step of the chain.
    assert memory == sorted(memory) and memory[-1] - memory[0] > 90
    assert result["chain_over_step"] == pytest.approx(result["chain_seconds"] / result["step_seconds"])
    # What is absent is said to be, and no ratio is made up.
    parts_of_the_original = ["julius filters", "sox pitch", "sox reverb"]
    assert result["original_parts_cpu_ms_per_view"] == dict.fromkeys(parts_of_the_original)
    assert result["absent"] == parts_of_the_original
    assert result["chain_over_original_parts"] is None


def test_the_peak_of_memory_is_that_of_the_process_alone():
    program = "from benchmarks.peak_memory import peak_memory_mb; print({0}peak_memory_mb())"
    started = f"subprocess.run([sys.executable, '-c', '{program.format('')}'], check=True)"
    starter = f"import subprocess, sys; full = bytes([1]) * 2**28; {started}; " + program.format("'starter', ")
    done = subprocess.run([sys.executable, "-c", starter], cwd=ROOT, capture_output=True, text=True, check=True)
    own_mb, starter_mb = int(done.stdout.split()[0]), int(done.stdout.split()[-1])
    # A bare Python, and one with 256 MB of its own.
    assert 5 < own_mb < 100
    assert 256 < starter_mb < 400


def test_sox_is_timed_where_it_is_there(tmp_path, monkeypatch):
    """By a program of its name that works for 40 ms when it is told an effect."""
    sox = tmp_path / "sox"
    work = "import sys, time\nwhile len(sys.argv) > 4 and time.process_time() < 0.04: pass"
    sox.write_text(f"#!{sys.executable} -IS\n{work}\n")
    sox.chmod(0o755)
    clips, settings = np.zeros([4, 1_000], np.float32), [(100.0,), (-100.0,)]
    monkeypatch.setenv("PATH", str(tmp_path))
    # Half of the clips are drawn; starting the program takes as long with an effect as without.
    assert 0.002 < sox_cpu_seconds(clips, settings, "pitch", 22_050) < 0.04
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    assert sox_cpu_seconds(clips, settings, "pitch", 22_050) is None


def outcome_of(name: str, arguments: list[str], capsys) -> tuple[int, str, str]:
    """Exit code, output and errors of a benchmark that measures nothing, in this process."""
    main = importlib.import_module(f"benchmarks.{name}").main
    try:
        code = run_command(main, arguments)
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("direct_reader", ["--max-seconds", "3"], "--max-seconds at least 4"),
        ("train_step", ["--repeats", "0"], "--repeats at least 1"),
        ("embed", ["--num-files", "0"], "must be at least 1"),
        ("runtime_accuracy", ["--model", "no such model"], "has no file for another runtime"),
    ],
)
def test_settings_that_cannot_be_timed_are_refused(capsys, name, arguments, words):
    code, output, errors = outcome_of(name, arguments, capsys)
    assert (code, output) == (2, "")
    assert words in errors.splitlines()[-1] and "Traceback" not in errors


def test_a_corpus_that_does_not_exist_is_one_sentence_and_with_debug_a_traceback(capsys):
    code, output, errors = outcome_of("clips", ["--corpus", "no such corpus"], capsys)
    assert (code, output) == (2, "")
    assert errors.startswith("error: There is no corpus named 'no such corpus'") and "Traceback" not in errors
    code, output, errors = outcome_of("clips", ["--corpus", "no such corpus", "--debug"], capsys)
    assert (code, output) == (2, "")
    assert "Traceback" in errors and "UsageError" in errors


@pytest.mark.parametrize("name", ["augment", "clips", "direct_reader"])
def test_every_benchmark_can_show_where_an_error_was(capsys, name):
    assert "--debug" in outcome_of(name, ["--help"], capsys)[1]


def test_finding_songs_among_many():
    result = result_of("similar", "--num-songs", 3000, "--num-queries", 3)
    assert (result["num_songs"], result["num_queries"]) == (3000, 3)
    # The product alone reads 6 MB, which no memory does in 10 microseconds.
    assert 0.01 < result["answer_ms"] <= result["slowest_answer_ms"] < 10_000
    assert result["ratio_to_scikit_learn"] > 0 and result["open_seconds"] > 0


def test_decoding_beside_libsndfile():
    result = result_of("decode", "--seconds", 10, "--repetitions", 1)
    assert result["formats"].keys() == {"wav", "flac", "ogg_vorbis", "mp3", "mp3_vbr", "opus", "aac"}
    assert "ratio_to_libsndfile" not in result["formats"]["aac"]
    for measured in result["formats"].values():
        # No core decodes and resamples a second of audio in 10 microseconds.
        assert 1 < measured["real_time_per_core"] < 100_000
    ratios = [one["ratio_to_libsndfile"] for name, one in result["formats"].items() if name != "aac"]
    assert min(ratios) <= result["ratio_to_libsndfile"] <= max(ratios)
