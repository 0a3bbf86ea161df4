"""Embedding, tags and search with the included model, which need no TensorFlow; `make test-inference` runs them."""

from pathlib import Path

import numpy as np
import pytest

import clmr_tf
from clmr_tf import embed, similar, tag
from clmr_tf.config.command_line import INCLUDED_MODEL
from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import read_golden, read_manifest

SONGS = Path(__file__).parents[3] / "pipelines" / "demo_data" / "audio" / "marine"


def test_it_runs_in_litert_exactly_and_in_8_bits_nearly():
    exact, fast = (clmr_tf.load_encoder(runtime=runtime) for runtime in ("litert", "litert-int8"))
    golden = read_golden(INCLUDED_MODEL)
    error = np.abs(exact.encode_clips(golden["audio"]) - golden["embedding"]).max()
    assert error <= 1e-3 * np.abs(golden["embedding"]).max()
    song = min(SONGS.iterdir())
    ours, theirs = (encoder.embed(song).vectors for encoder in (exact, fast))
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    assert len(ours) == 11 and np.min(np.sum(ours * theirs, axis=1) / lengths) >= 0.99
    assert fast.model_hash == f"{exact.model_hash}-int8" == f"{read_manifest(INCLUDED_MODEL)['weights_sha256']}-int8"
    assert clmr_tf.load_encoder().runtime in ("litert", "tensorflow")
    with pytest.raises(UsageError, match="There is no runtime 'fast'"):
        clmr_tf.load_encoder(runtime="fast")


def test_commands_use_it_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    song, in_litert = str(min(SONGS.iterdir())), ["--runtime", "litert"]
    assert run_command(embed.main, [str(SONGS), "--out", "table", *in_litert]) == 0
    assert run_command(similar.main, [song, "--index", "table", "--top", "3", *in_litert]) == 0
    assert run_command(tag.main, [song, "--top", "3", *in_litert]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Embedded {len(list(SONGS.iterdir()))} of {len(list(SONGS.iterdir()))} files to table."
    assert lines[1] == song and all(line.split("  ")[-1].startswith(str(SONGS)) for line in lines[2:5])
    assert lines[5] == f"{song} (0:30)"
    assert {line.split("  ")[-1] for line in lines[6:]} <= set(read_manifest(INCLUDED_MODEL)["tag_names"])
