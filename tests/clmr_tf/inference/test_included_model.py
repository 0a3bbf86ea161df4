"""Embedding, tags and search with the included model, which need no TensorFlow; `make test-inference` runs them."""

import json
import os
import shutil
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


def test_a_table_in_8_bit_integers_is_of_the_same_model_and_stays_in_8_bits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    song = str(min(SONGS.iterdir()))
    assert run_command(embed.main, [song, "--out", "table", "--runtime", "litert-int8"]) == 0
    encoder = clmr_tf.load_encoder(runtime="litert")
    weights = np.random.default_rng(0).normal(size=512) / 20
    tag_of_table = {"changes": [], "head": {"weights": weights.tolist(), "bias": 0.5}, "precision": None}
    plain = {"format_version": 1, "model_hash": f"{encoder.model_hash}-int8", "tags": {"bright": tag_of_table}}
    Path("table.tags.json").write_text(json.dumps(plain))
    capsys.readouterr()
    assert run_command(tag.main, [song, "--taught", "table", "--top", "100", "--runtime", "litert"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith("  bright")]
    expected = (1 / (1 + np.exp(-(encoder.embed(song).vectors @ weights + 0.5)))).mean()
    assert float(line.split()[0]) == pytest.approx(expected, abs=6e-4)
    before = Path("table/manifest.json").read_bytes()
    for paths in ([song], [song, str(max(SONGS.iterdir()))]):
        assert run_command(embed.main, [*paths, "--out", "table", "--update", "--runtime", "litert"]) == 2
        assert capsys.readouterr().err == (
            "error: table uses 8-bit integers (--runtime litert-int8), but this command uses float32; use the same "
            "--runtime for the whole table, or another --out.\n"
        )
        assert Path("table/manifest.json").read_bytes() == before


@pytest.mark.parametrize("table", [b"table", b"table.npz", b"\xfe"])
def test_names_that_are_not_utf_8(tmp_path, monkeypatch, capsys, table):
    monkeypatch.chdir(tmp_path)
    folder, table = Path(os.fsdecode(b"\xff")), os.fsdecode(table)
    folder.mkdir()
    song, other = sorted(SONGS.iterdir())[:2]
    shutil.copy(song, folder / os.fsdecode(b"a\xe4.ogg"))
    shutil.copy(other, folder / "b.ogg")
    own = [str(folder / os.fsdecode(b"a\xe4.ogg")), "--runtime", "litert"]
    assert run_command(embed.main, [str(folder), "--out", table, "--runtime", "litert"]) == 0
    capsys.readouterr()
    assert run_command(similar.main, [*own, "--index", table]) == 0
    # The song itself is not listed.
    query, *found = capsys.readouterr().out.splitlines()
    assert r"/\xff/a\xe4.ogg#" in query and len(found) == 1 and r"/\xff/b.ogg#" in found[0]
    assert run_command(tag.main, [*own, "--top", "1"]) == 0
    assert r"/\xff/a\xe4.ogg#" in capsys.readouterr().out
