"""The quickstart notebook runs from top to bottom and gives the numbers that it shows."""

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def results(cells):
    """Runs all cells and returns their variables."""
    variables = {}
    with matplotlib.rc_context({"backend": "agg"}):
        for cell in cells:
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name} {cell['id']}", "exec"), variables)
        plt.close("all")
    return variables


def test_first_vector_is_the_embedding_of_the_first_window(results):
    samples, _ = soundfile.read(results["paths"][0], frames=59_049, dtype="float32", always_2d=True)
    expected = results["encoder"].encode_clips(samples.mean(axis=1)[None])[0]
    np.testing.assert_allclose(results["embeddings"][0].vectors[0], expected, atol=1e-3 * np.abs(expected).max())
    assert results["songs"].shape == (39, 512)


def test_nearest_songs_share_a_composer_more_often_than_by_chance(results):
    # The composers have 9, 10, 10 and 10 songs.
    assert results["chance"] == pytest.approx((9 * 8 + 3 * 10 * 9) / (39 * 38))
    assert results["same_composer"] == pytest.approx(24 / 39, abs=2 / 39)


def test_probe_scores_above_the_majority_guess(results):
    assert (results["is_train"].sum(), len(results["is_composer"])) == (23, 16)
    assert results["majority"] == 0.25
    assert results["accuracy"] == pytest.approx(9 / 16, abs=1 / 16)
    assert results["roc_auc"] > 0.8


def test_saved_outputs_are_present_and_small(cells):
    assert all(cell["outputs"] for cell in cells[1:])
    assert NOTEBOOK.stat().st_size < 100_000
