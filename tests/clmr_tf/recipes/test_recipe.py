"""Recipe files: what is read and refused, and the recipes of the project."""

import re

import pytest
import yaml

from clmr_tf.data.resolution import is_pipeline
from clmr_tf.errors import UsageError
from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES
from clmr_tf.recipes.recipe import (
    PUBLISHED_CORPORA,
    RECIPES,
    Recipe,
    read_other_published,
    read_recipe,
    read_recipes,
    remark_on_test_split,
)
from pipelines import billboard, fma, gtzan, magnatagatune, msd

TRAIN = {"corpus": "fma", "batch_size": 4}
PROBE = {"corpus": "gtzan", "preset": "released", "head": "mlp", "expected_percent": {"accuracy": 68.6}}
ENTRIES = {
    "table": "a table",
    "row": "a row",
    "source": "somebody",
    "train": TRAIN,
    "epochs": {"count": 10, "of": "clip", "num_units": 23},
    "probes": [PROBE],
}


def write(folder, name="one", **changes):
    entries = {key: value for key, value in {**ENTRIES, **changes}.items() if value is not None}
    (folder / f"{name}.yaml").write_text("# A comment.\n\n" + yaml.safe_dump(entries))


def test_reads_the_entries_of_a_file(tmp_path):
    write(tmp_path)
    recipe = read_recipe(tmp_path, "one")
    assert (recipe.name, recipe.base, recipe.table, recipe.row) == ("one", "one", "a table", "a row")
    assert (recipe.source, recipe.checkpoint, recipe.corpora) == ("somebody", "newest", ["fma", "gtzan"])
    config = recipe.train_config
    # 23 clips are 5 batches of 4.
    assert (config.batch_size, config.sampling_unit, config.steps, config.width) == (4, "clip", 50, 1.0)
    (probe,) = recipe.probes
    assert probe.settings == {"corpus": "gtzan", "preset": "released", "head": "mlp"}
    assert probe.expected_percent == {"accuracy": 68.6}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"table": None}, "missing 1 required .*'table'"),
        ({"tabel": "x"}, "unexpected keyword argument 'tabel'"),
        ({"probes": 3}, "not iterable"),
        ({"epochs": {"count": 10}}, "KeyError: 'num_units'"),
        ({"train": {**TRAIN, "batchsize": 4}}, "unknown setting `batchsize`; did you mean `batch_size`"),
        ({"train": {**TRAIN, "temperature": -1}}, "--temperature must be positive"),
        ({"probes": [{name: PROBE[name] for name in PROBE if name != "preset"}]}, "preset standard"),
        ({"probes": [{**PROBE, "head": "wide"}]}, "`head` must be one of .* received 'wide'"),
        ({"probes": [{**PROBE, "labels": 2}]}, r"--labels must be .* received 2"),
        ({"probes": [{**PROBE, "head": "own"}]}, "--head own needs a model trained with labels"),
        ({"probes": [{**PROBE, "expected_percent": {"f1": 50}}]}, "there is no score 'f1'; choose from roc_auc"),
    ],
)
def test_refuses_a_recipe_that_cannot_be_run(tmp_path, changes, words):
    write(tmp_path, **changes)
    with pytest.raises(UsageError, match=f"one.*{words}"):
        read_recipe(tmp_path, "one")


def test_refuses_a_file_that_is_not_yaml_and_an_empty_folder(tmp_path):
    (tmp_path / "bad.yaml").write_text("table: [")
    with pytest.raises(UsageError, match=r"bad\.yaml is not a recipe"):
        read_recipe(tmp_path, "bad")
    with pytest.raises(UsageError, match="There are no recipes in"):
        read_recipes(tmp_path / "nowhere")


def test_a_recipe_evaluates_the_model_of_another_one(tmp_path):
    write(tmp_path)
    write(tmp_path, "two", train=None, epochs=None, model_of="one")
    recipe = read_recipe(tmp_path, "two")
    assert (recipe.name, recipe.base, recipe.train_config.steps) == ("two", "one", 50)
    write(tmp_path, "three", train=None, epochs=None, model_of="ones")
    with pytest.raises(UsageError, match=r"There is no recipe 'ones' in .*; did you mean `one`"):
        read_recipe(tmp_path, "three")


def test_sorts_recipes_by_the_numbers_in_their_names(tmp_path):
    for name in ("rows-10", "rows-2", "rows-0.5", "a-1", "rows"):
        write(tmp_path, name)
    assert list(read_recipes(tmp_path)) == ["a-1", "rows", "rows-0.5", "rows-2", "rows-10"]


def test_changes_settings_by_name(tmp_path):
    write(tmp_path)
    recipe = read_recipe(tmp_path, "one")
    train_changes = ["steps=7", "learning-rate=1e-3", "augmentation_changes=[pitch.probability=0]"]
    changed = recipe.changed(train_changes, ["head=linear"])
    config = changed.train_config
    assert (config.steps, config.learning_rate, config.augmentation_changes) == (7, 1e-3, ("pitch.probability=0",))
    assert changed.probes[0].settings == {"corpus": "gtzan", "preset": "released", "head": "linear"}
    assert recipe.train_config.steps == 50
    for change, words in (
        ("steps", "takes NAME=VALUE"),
        ("steps=[1", "takes NAME=VALUE"),
        ("stepps=3", "did you mean `steps`"),
        ("steps=many", "must be a whole number"),
    ):
        with pytest.raises(UsageError, match=words):
            recipe.changed([change], ())


@pytest.fixture(scope="module")
def recipes() -> dict[str, Recipe]:
    return read_recipes()


def test_headline_scores_are_those_of_the_publications(recipes):
    """Typed from the README of the released code, the tables of the thesis and the README of TUNe."""
    assert len(recipes) == len(list(RECIPES.glob("*.yaml"))) - 1
    published = {
        "mtt-clmr": [(88.7, 35.6), (89.3, 36.0)],
        "mtt-epochs-10000": [(88.47, 35.37), (89.25, 35.89)],
        "mtt-checkpoint-1550": [(87.71, 34.27), (88.47, 34.96)],
        "mtt-supervised": [(88.56, 34.38)],
        "msd-clmr": [(85.66, 24.98)],
        "mtt-jukemir": [(89.4, 36.1)],
        "transfer-fma": [(86.22, 30.58), (86.63, 31.22)],
    }
    for name, scores in published.items():
        expected = [probe.expected_percent for probe in recipes[name].probes]
        assert [(one["roc_auc"], one["average_precision"]) for one in expected] == scores


def test_steps_are_those_of_the_published_epochs(recipes):
    # Of MagnaTagATune an epoch has 81, 40 and 8 batches of 48, 96 and 456 songs, or 389 batches of 48 clips.
    steps = {
        "mtt-clmr": 10_000 * 389,
        "mtt-checkpoint-1550": 1_550 * 81,
        "mtt-epochs-1000": 1_000 * 40,
        "mtt-batch-456": 3_000 * 8,
        "mtt-only-crop": 500 * 81,
        "msd-clmr": 1_000 * 4_201,
        "transfer-gtzan": 10_000 * 19,
    }
    assert {name: recipes[name].train_config.steps for name in steps} == steps


def test_recipes_name_pipelines_and_sources_that_exist(recipes):
    sources = read_other_published()["sources"]
    for recipe in recipes.values():
        assert all(map(is_pipeline, recipe.corpora)) and recipe.source in sources, recipe.name
    made = {
        "billboard": billboard.NAME,
        "fma": f"fma-{fma.FmaOptions().size}",
        "gtzan": gtzan.CORPUS_NAME,
        "magnatagatune": magnatagatune.CORPUS_NAME,
        "msd": msd.CORPUS_NAME,
    }
    assert made == PUBLISHED_CORPORA


def differing(first: Recipe, second: Recipe) -> set[str]:
    assert first.probes[0].settings == second.probes[0].settings
    return {name for name in {*first.train, *second.train} if first.train.get(name) != second.train.get(name)}


def test_rows_of_a_table_differ_in_what_the_table_is_about(recipes):
    assert differing(recipes["mtt-epochs-3000"], recipes["mtt-epochs-10000"]) == {"steps"}
    assert differing(recipes["mtt-temperature-0.1"], recipes["mtt-temperature-0.5"]) == {"temperature"}
    assert differing(recipes["mtt-rate-8000"], recipes["mtt-temperature-0.5"]) == {"sample_rate_hz"}
    rates_hz = {recipe.train_config.sample_rate_hz for name, recipe in recipes.items() if "rate-" in name}
    assert rates_hz == set(CLIP_NUM_SAMPLES) - {22_050}
    for corpus in ("mtt", "msd"):
        one, half = recipes[f"labels-{corpus}-supervised-1"], recipes[f"labels-{corpus}-supervised-50"]
        assert differing(one, half) == {"labels_like_paper"}
    for name, recipe in recipes.items():
        if match := re.fullmatch(r"mtt-(?:only|sweep)-(?!crop)([a-z]+)(?:-([0-9.]+))?", name):
            effect, probability = match.groups()
            changes = [f"{effect}.probability={probability}"] if probability else []
            assert differing(recipe, recipes["mtt-only-crop"]) - {"augmentation_changes"} == {"augmentation"}
            assert recipe.train["augmentation"] == f"only-{effect}"
            assert recipe.train.get("augmentation_changes", []) == changes


@pytest.mark.parametrize(
    ("corpus", "task", "num_clips", "is_remarked"),
    [
        ("magnatagatune-pons2017", None, 5_329, False),
        ("magnatagatune-pons2017", None, 5_328, True),
        ("msd-lee2017", None, 28_436, True),
        ("magnatagatune-pons2017", "instruments", 12, False),
        ("songs", None, 12, False),
    ],
)
def test_a_test_split_of_another_size_is_remarked_on(corpus, task, num_clips, is_remarked):
    remark = remark_on_test_split(corpus, task, num_clips)
    assert bool(remark) == is_remarked and (not remark or "do not compare" in remark)
