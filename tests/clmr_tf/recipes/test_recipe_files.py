"""Reading a recipe: what is taken, what is refused, and in which words."""

import pytest
import yaml

from clmr_tf.errors import UsageError
from clmr_tf.recipes.recipe import read_recipe, read_recipes, read_with_base

TRAIN = {"corpus": "fma", "sampling_unit": "song", "batch_size": 4, "steps": 50}
PROBE = {"corpus": "gtzan", "preset": "released", "head": "mlp", "expected_percent": {"accuracy": 68.6}}
PLAIN = {
    "table": "a table",
    "row": "a row",
    "source": "somebody",
    "train": TRAIN,
    # 23 songs in batches of 4 are 5 steps.
    "epochs": {"count": 10, "of": "song", "num_units": 23},
    "probes": [PROBE],
}


def write(folder, name="one", **changes):
    plain = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
    path = folder / f"{name}.yaml"
    path.write_text("# In words.\n\n" + yaml.safe_dump(plain))
    return path


def test_a_recipe_is_what_its_file_says(tmp_path):
    recipe = read_recipe(write(tmp_path))
    assert (recipe.name, recipe.table, recipe.row, recipe.source) == ("one", "a table", "a row", "somebody")
    assert (recipe.checkpoint, recipe.model_of) == ("newest", None)
    config = recipe.train_config()
    assert (config.corpus, config.batch_size, config.steps, config.width) == ("fma", 4, 50, 1.0)
    assert recipe.epochs.steps_per_epoch(4) == 5
    (probe,) = recipe.probes
    assert probe.settings == {"corpus": "gtzan", "preset": "released", "head": "mlp"}
    assert probe.expected_percent == {"accuracy": 68.6}
    assert recipe.text.startswith("# In words.\n")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"table": None}, ["lacks `table`"]),
        ({"tabel": "x"}, ["an entry `tabel`", "table, row"]),
        ({"train": None}, ["either `train` or `model_of`"]),
        ({"model_of": "two"}, ["either `train` or `model_of`"]),
        ({"train": {**TRAIN, "batchsize": 4}}, ["unknown setting `batchsize`", "`batch_size`"]),
        ({"train": {**TRAIN, "temperature": -1}}, ["--temperature must be positive"]),
        ({"train": {**TRAIN, "workdir": "runs/x"}}, ["`workdir` is decided when the recipe is run"]),
        ({"train": {"steps": 50}}, ["`corpus` must name a pipeline", "None"]),
        ({"train": {**TRAIN, "corpus": "corpora/fma"}}, ["`corpus` must name a pipeline", "'corpora/fma'"]),
        ({"train": ["steps"]}, ["train must hold settings as `name: value`"]),
        ({"train": {**TRAIN, "steps": 51}}, ["its epochs are 50 steps of 4", "received 51"]),
        ({"train": {**TRAIN, "sampling_unit": "clip"}}, ["need `sampling_unit: song`"]),
        ({"epochs": {"count": 10}}, ["count, of and num_units"]),
        ({"epochs": {**PLAIN["epochs"], "of": "album"}}, ["`of` must be one of ['song', 'clip']"]),
        ({"checkpoint": "first"}, ["`checkpoint` must be newest or best", "'first'"]),
        ({"probes": PROBE}, ["`probes` must be a list"]),
        ({"probes": ["gtzan"]}, ["probes must hold settings as `name: value`"]),
        ({"probes": [{"corpus": "gtzan"}]}, ["quick is no published protocol"]),
        ({"probes": [{**PROBE, "preset": "quick"}]}, ["probes: --head has no effect with --preset quick"]),
        ({"probes": [{**PROBE, "head": "wide"}]}, ["probes: `head` must be one of", "'wide'"]),
        ({"probes": [{**PROBE, "labels": 2}]}, ["probes: --labels must be a fraction", "received 2"]),
        ({"probes": [{**PROBE, "features": "spectra"}]}, ["probes: --features must be one of", "'spectra'"]),
        ({"probes": [{**PROBE, "labels": 0.1, "labels_like_paper": 0.1}]}, ["two ways to choose few labels"]),
        ({"probes": [{**PROBE, "head": "own"}]}, ["a probe by its own head", "objective: supervised"]),
        ({"probes": [{**PROBE, "model": "x"}]}, ["`model` is decided when the recipe is run"]),
        ({"probes": [{**PROBE, "expected_percent": {"f1": 50}}]}, ["nothing measures `f1`", "roc_auc"]),
        ({"probes": [{**PROBE, "expected_percent": {"accuracy": "68.6 %"}}]}, ["must hold numbers by metric"]),
    ],
)
def test_what_no_recipe_can_be_is_refused_in_one_sentence(tmp_path, changes, words):
    with pytest.raises(UsageError) as caught:
        read_recipe(write(tmp_path, **changes))
    sentence = str(caught.value)
    assert "\n" not in sentence and str(tmp_path / "one.yaml") in sentence
    for word in words:
        assert word in sentence


def test_a_file_that_is_no_recipe_is_named(tmp_path):
    for text in ("table: [", "- table", "\xe4".encode("latin-1").decode("latin-1") + ": 1"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UsageError, match=r"bad\.yaml"):
            read_recipe(tmp_path / "bad.yaml")
    with pytest.raises(UsageError, match="There are no recipes in"):
        read_recipes(tmp_path / "nowhere")


def test_a_model_of_another_recipe_has_to_be_trained_by_it(tmp_path):
    write(tmp_path)
    write(tmp_path, "two", train=None, epochs=None, model_of="one")
    for name in ("one", "two"):
        recipe, base = read_with_base(tmp_path, name)
        assert (recipe.name, base.name) == (name, "one")
    write(tmp_path, "three", train=None, epochs=None, model_of="two")
    with pytest.raises(UsageError, match=r"three\.yaml: `model_of` must name a recipe that trains; received 'two'"):
        read_with_base(tmp_path, "three")
    write(tmp_path, "three", train=None, epochs=None, model_of="four")
    with pytest.raises(UsageError, match="received 'four'"):
        read_with_base(tmp_path, "three")
    write(tmp_path, "three", train=None, epochs=None, model_of="one", probes=[{**PROBE, "head": "own"}])
    with pytest.raises(UsageError, match=r"three\.yaml: a probe by its own head needs .* in one; none is trained"):
        read_with_base(tmp_path, "three")


def test_recipes_are_sorted_by_the_numbers_in_their_names(tmp_path):
    for name in ("rows-10", "rows-2", "rows-0.5", "a-1", "rows"):
        write(tmp_path, name)
    recipes = read_recipes(tmp_path)
    assert list(recipes) == ["a-1", "rows", "rows-0.5", "rows-2", "rows-10"]
    with pytest.raises(UsageError, match=r"'row-2'; did you mean `rows-2`\?"):
        read_with_base(tmp_path, "row-2")


def test_settings_are_changed_by_name_and_the_steps_are_free_then(tmp_path):
    recipe = read_recipe(write(tmp_path))
    assert recipe.changed((), ()) is recipe
    changed = recipe.changed(
        ["steps=7", "learning-rate=1e-3", "augmentation_changes=[pitch.probability=0]"], ["head=linear"]
    )
    config = changed.train_config()
    assert (config.steps, config.learning_rate, config.augmentation_changes) == (7, 1e-3, ("pitch.probability=0",))
    assert changed.probes[0].settings == {**recipe.probes[0].settings, "head": "linear"}
    assert changed.probes[0].expected_percent == {"accuracy": 68.6}
    assert recipe.train_config().steps == 50
    for change, words in (
        (["steps"], "takes NAME=VALUE"),
        (["stepps=3"], "did you mean `steps`"),
        (["steps=many"], "must be a whole number"),
        (["steps=[1"], "cannot be read"),
        (["workdir=x"], "is decided when"),
    ):
        with pytest.raises(UsageError, match=words):
            recipe.changed(change, ())
