"""The benchmarks: each prints one JSON object with plausible figures."""

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
from clmr_tf.data.direct_reader import tensorflow_io_decoders
from tests.synthetic import synthetic_corpus

ROOT = Path(__file__).parents[2]
NUM_CPUS = os.cpu_count() or 1


def result_of(name: str, *arguments: object, **environment: str) -> dict:
    """Runs a benchmark as a process; returns the JSON object that it prints."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)]
    everything = {**os.environ, **environment}
    finished = subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.fixture
def result_here(capsys):
    """Runs a benchmark in this process, which saves the import of TensorFlow."""

    def run(name: str, *arguments: object) -> dict:
        assert run_command(importlib.import_module(f"benchmarks.{name}").main, [str(one) for one in arguments]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_clips_reports_plausible_times(tmp_path, result_here):
    # Text in a name that looks like markup or an emoji must be printed literally.
    corpus = synthetic_corpus(tmp_path / "live [bold] :cat:", num_songs={"train": 5})
    begin = time.perf_counter()
    result = result_here("clips", "--corpus", corpus.folder, "--batch-size", 4, "--num-batches", 3)
    elapsed_ms = 1000 * (time.perf_counter() - begin)

    keys = {"corpus", "num_pairs", "cpu_ms_per_pair", "wall_ms_per_pair", "pairs_per_core_second", "by_num_files"}
    assert set(result) == keys and list(result["by_num_files"]) == ["1", "16", "256"]
    assert (result["corpus"], result["num_pairs"]) == ("live [bold] :cat:", 12)
    assert result["pairs_per_core_second"] * result["cpu_ms_per_pair"] == pytest.approx(1000, rel=1e-6)
    # Copying a pair takes more than 0.01 ms; the timed part is shorter than the whole process.
    assert 0.01 < result["cpu_ms_per_pair"] < elapsed_ms * NUM_CPUS / 12
    assert 0.01 < result["wall_ms_per_pair"] < elapsed_ms / 12


def test_index_reports_plausible_times(result_here):
    begin = time.perf_counter()
    result = result_here("index", "--items", 70_000, "--files", 3)
    assert (result["num_items"], result["num_files"]) == (70_000, 3)
    # The arrays alone have 49 bytes per item; a Python object with its strings has more than 1,000.
    assert 10 < result["bytes_per_item"] < 1_000
    assert 0 < result["load_seconds"] < result["start_seconds"] < time.perf_counter() - begin
    assert result["load_peak_megabytes"] <= result["start_peak_megabytes"]


@pytest.mark.soak
def test_cluster_reports_plausible_times():
    result = result_of("cluster", "--num-files", 4, "--num-shards", 2)
    assert (result["num_files"], result["num_shards"]) == (4, 2)
    assert 0 < result["ray_over_processes"] < 2 and 0 < result["overhead_ms_per_shard"] < 1000
    assert 0 < result["seconds_until_the_shard_of_a_dead_node_is_repeated"] < 300


@pytest.mark.soak
def test_direct_reader_reports_plausible_times():
    begin = time.perf_counter()
    result = result_of("direct_reader", "--num-crops", 20, "--max-seconds", 4, "--songs", "wav")
    elapsed_ms = 1000 * (time.perf_counter() - begin)

    assert result["crop_num_samples"] == 59049 and result["sample_rate_hz"] == 22050
    assert result["num_crops"] == 20
    decoder = "av" if tensorflow_io_decoders() is None else "tensorflow-io"
    assert set(result["versions"]) == {"tensorflow", decoder, "libsndfile"}
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
def test_augment_reports_plausible_costs_without_the_original(tmp_path):
    begin = time.perf_counter()
    places = ["--corpora", tmp_path, "--original", tmp_path / "nothing here"]
    once = ["--width", 0.0625, "--repetitions", 1, "--step-repetitions", 1]
    # PATH names no folder, so sox is missing.
    result = result_of("augment", *places, *once, PATH=str(tmp_path / "no programs"))
    elapsed_ms = 1000 * (time.perf_counter() - begin)

    assert (result["num_views"], result["step_width"]) == (96, 0.0625)
    costs = result["chain_cpu_ms_per_view"]
    assert list(costs) == ["16", "96", "384"]
    # Two transforms of a view take more than 0.1 ms.
    assert all(0.1 < cost < elapsed_ms / int(num_views) for num_views, cost in costs.items())
    parts = result["parts_on_every_view_cpu_ms"]
    assert list(parts) == ["polarity", "noise", "gain", "filter", "delay", "pitch", "reverb"]
    assert min(parts.values()) > 0.005 and parts["pitch"] > parts["polarity"]
    # The transform pair is a part of every filter.
    assert 0.005 < result["transform_pair_cpu_ms_per_view"] < 2 * parts["filter"]
    memory = [result["peak_memory_mb"][key] for key in ("before", "16", "96", "384")]
    # 384 views take 90 MB, and an effect holds at least its input and output.
    assert memory == sorted(memory) and memory[-1] - memory[0] > 90
    assert result["chain_over_step"] == pytest.approx(result["chain_seconds"] / result["step_seconds"])
    # Missing parts are listed and no ratio is reported.
    parts_of_the_original = ["julius filters", "sox pitch", "sox reverb"]
    assert result["original_parts_cpu_ms_per_view"] == dict.fromkeys(parts_of_the_original)
    assert result["absent"] == parts_of_the_original
    assert result["chain_over_original_parts"] is None


def test_peak_memory_is_that_of_the_process_alone():
    program = "from benchmarks.peak_memory import peak_memory_mb; print({0}peak_memory_mb())"
    started = f"subprocess.run([sys.executable, '-c', '{program.format('')}'], check=True)"
    starter = f"import subprocess, sys; full = bytes([1]) * 2**28; {started}; " + program.format("'starter', ")
    done = subprocess.run([sys.executable, "-c", starter], cwd=ROOT, capture_output=True, text=True, check=True)
    own_mb, starter_mb = int(done.stdout.split()[0]), int(done.stdout.split()[-1])
    # A bare Python, and one that holds 256 MB.
    assert 5 < own_mb < 100
    assert 256 < starter_mb < 400


def test_sox_is_timed_if_it_is_installed(tmp_path, monkeypatch):
    """A stand-in named sox works for 40 ms if an effect is given."""
    sox = tmp_path / "sox"
    work = "import sys, time\nwhile len(sys.argv) > 4 and time.process_time() < 0.04: pass"
    sox.write_text(f"#!{sys.executable} -IS\n{work}\n")
    sox.chmod(0o755)
    clips, settings = np.zeros([4, 1_000], np.float32), [(100.0,), (-100.0,)]
    monkeypatch.setenv("PATH", str(tmp_path))
    # The time of starting the program cancels, since it is the same with and without an effect.
    assert 0.002 < sox_cpu_seconds(clips, settings, "pitch", 22_050) < 0.04
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    assert sox_cpu_seconds(clips, settings, "pitch", 22_050) is None


def outcome_of(name: str, arguments: list[str], capsys) -> tuple[int, str, str]:
    """Runs a benchmark in this process; returns its exit code, output and errors."""
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
        ("index", ["--items", "200", "--files", "201"], "--files from 1 to --items"),
        ("train_step", ["--repeats", "0"], "--repeats at least 1"),
        ("embed", ["--num-files", "0"], "must be at least 1"),
        ("runtime_accuracy", ["--model", "no such model"], "has no file for another runtime"),
    ],
)
def test_invalid_settings_are_rejected(capsys, name, arguments, words):
    code, output, errors = outcome_of(name, arguments, capsys)
    assert (code, output) == (2, "")
    assert words in errors.splitlines()[-1] and "Traceback" not in errors


def test_missing_corpus_is_one_sentence_and_a_traceback_with_debug(capsys):
    code, output, errors = outcome_of("clips", ["--corpus", "no such corpus"], capsys)
    assert (code, output) == (2, "")
    assert errors.startswith("error: There is no corpus named 'no such corpus'") and "Traceback" not in errors
    code, output, errors = outcome_of("clips", ["--corpus", "no such corpus", "--debug"], capsys)
    assert (code, output) == (2, "")
    assert "Traceback" in errors and "UsageError" in errors


def test_similar_reports_plausible_times(result_here):
    result = result_here("similar", "--songs", 3000, "--queries", 3)
    assert (result["num_songs"], result["num_queries"]) == (3000, 3)
    assert 0.98 <= result["recall_at_10"] <= 1
    # Reading the songs alone takes longer than 0.1 milliseconds.
    assert 0.1 < result["milliseconds"] <= result["slowest_milliseconds"] < 10_000
    assert result["exact_milliseconds"] > 0.1 and 0 < result["open_seconds"] < result["build_seconds"]
    # At least half of the 2048 bytes of an embedding.
    assert 1024 < result["index_bytes_per_song"] < 4096
    assert 10 < result["megabytes_before_index"] <= result["peak_megabytes"]


def test_decode_reports_plausible_ratios_to_libsndfile(result_here):
    result = result_here("decode", "--seconds", 4, "--repetitions", 1)
    assert result["formats"].keys() == {"wav", "flac", "ogg_vorbis", "mp3", "mp3_vbr", "opus", "aac"}
    assert "ratio_to_libsndfile" not in result["formats"]["aac"]
    for measured in result["formats"].values():
        # Decoding and resampling a second of audio takes more than 10 microseconds.
        assert 1 < measured["real_time_per_core"] < 100_000
    ratios = [one["ratio_to_libsndfile"] for name, one in result["formats"].items() if name != "aac"]
    assert min(ratios) <= result["ratio_to_libsndfile"] <= max(ratios)
