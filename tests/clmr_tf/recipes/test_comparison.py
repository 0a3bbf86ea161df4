"""What a recipe measured beside what was published, and when the two are not to be compared."""

import dataclasses
import json
from pathlib import Path

import pytest

from clmr_tf.errors import ClmrError
from clmr_tf.recipes.__main__ import main
from clmr_tf.recipes.recipe import RECIPES, read_with_base
from clmr_tf.recipes.run import Chain, Places, compare
from tests.clmr_tf.recipes.prepared import prepare_corpora

PONS = {"name": "magnatagatune-pons2017"}


@pytest.fixture
def places(tmp_path) -> Places:
    return Places(*(tmp_path / name for name in ("corpora", "runs", "savedmodels", "features")))


def chain_of(name: str, places: Places) -> Chain:
    return Chain(*read_with_base(RECIPES, name), places)


def write_json(path: Path, plain: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain))


def test_measured_scores_stand_beside_the_published_ones(places):
    chain = chain_of("labels-mtt-clmr-1", places)
    scores = {
        "num_clips": 5_329,
        "roc_auc": {
            "over_tags": {"mean": 0.9, "interval": [0.8, 0.95]},
            "over_clips": {"mean": None, "interval": None},
        },
        "average_precision": {"over_tags": {"mean": 0.33, "interval": None}},
    }
    for number in range(2):
        write_json(chain.result(number), {"corpus": PONS, "scores": {"test": scores}})
    found = [dataclasses.astuple(one) for one in compare(chain)]
    first, second = (
        "magnatagatune, thesis, linear, labels like paper 0.01",
        "magnatagatune, thesis, linear, labels 0.01",
    )
    assert found == [
        (first, "roc_auc", 90.0, (80.0, 95.0), None, None),
        (first, "average_precision", 33.0, None, 33.12, None),
        (second, "roc_auc", 90.0, (80.0, 95.0), None, None),
        (second, "average_precision", 33.0, None, None, None),
    ]


def test_a_test_split_with_missing_clips_is_said_not_to_be_the_published_one(places, capsys, monkeypatch):
    chain = chain_of("mtt-epochs-1000", places)
    places.corpora.mkdir()
    prepare_corpora(places.corpora)
    sentence = "The published test split has 5,329 clips, so the published numbers are not to be compared with these."
    monkeypatch.setattr("clmr_tf.recipes.run.run_chain", lambda chain: None)
    folders = [f"--{name}={getattr(places, name)}" for name in ("corpora", "runs", "savedmodels")]
    for num_clips, remarks in ((5_329, []), (2_665, [sentence])):
        score = {"mean": 0.8, "interval": [0.7, 0.9]}
        scores = {"num_clips": num_clips, "roc_auc": {"over_tags": score}}
        for number in range(2):
            plain = {"corpus": PONS, "scores": {"test": scores}}
            write_json(chain.result(number), plain)
        assert {one.remark for one in compare(chain)} == set(remarks or [None])
        main(["run", "mtt-epochs-1000", *folders])
        # Once, however many scores it is about.
        assert " ".join(capsys.readouterr().out.split()).count(sentence) == len(remarks)
        for number in range(2):
            plain["task"] = {"name": "instruments", "fingerprint": "7" * 64}
            write_json(chain.result(number), plain)
        assert {one.remark for one in compare(chain)} == {None}


def test_a_result_that_is_not_whole_is_named(places):
    chain = chain_of("mtt-only-crop", places)
    write_json(chain.result(0), {"corpus": PONS, "scores": {"test": {}}})
    with pytest.raises(ClmrError, match=r"The result \S*evaluation-mtt-only-crop-1\.json cannot be read; remove it"):
        compare(chain)
