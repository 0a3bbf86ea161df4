"""The recipes of the project: every published row has one, and its head says what its body says."""

import json
import math
import re

import pytest

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import SAMPLE_RATES_HZ
from clmr_tf.data.resolution import is_pipeline
from clmr_tf.recipes.recipe import RECIPES, Recipe, read_recipes
from clmr_tf.recipes.run import PUBLISHED_CORPORA
from clmr_tf.report.published import PUBLISHED_FILE, read_published
from clmr_tf.report.results import read_results, rows_of
from tests.clmr_tf.report.written_results import result, write, write_manifest

RECIPES_BY_NAME = read_recipes(RECIPES)
EACH = pytest.mark.parametrize("recipe", RECIPES_BY_NAME.values(), ids=RECIPES_BY_NAME)

# The tables again, in percent, from the thesis (https://github.com/Spijkervet/thesis, content/exp.tex), the notebook
# "paper figures" and the README of https://github.com/Spijkervet/CLMR, and the README of TUNe for JukeMIR's probes.
# ROC-AUC and PR-AUC over tags, then by clip; of a second probe, the MLP, after it.
TABLES = {
    "mtt-clmr": ["88.7 35.6", "89.3 36.0"],
    "mtt-checkpoint-1550": ["87.71 34.27", "88.47 34.96"],
    "mtt-supervised": ["88.56 34.38"],
    "msd-clmr": ["85.66 24.98"],
    "mtt-jukemir": ["89.4 36.1"],
    "mtt-epochs-1000": ["88.31 34.40 92.89 68.59", "88.64 34.86 93.08 69.15"],
    "mtt-epochs-3000": ["88.49 35.11 93.07 69.20", "88.94 35.46 93.27 69.74"],
    "mtt-epochs-10000": ["88.47 35.37 93.16 69.32", "89.25 35.89 93.48 70.03"],
    "mtt-batch-48": ["87.91 34.56 92.88 68.75"],
    "mtt-batch-456": ["88.13 34.87 92.96 68.90"],
    "mtt-temperature-0.1": ["85.82 30.33 91.18 64.10"],
    "mtt-temperature-0.3": ["85.58 30.35 91.21 64.38"],
    "mtt-temperature-0.5": ["85.82 30.49 91.25 64.78"],
    "mtt-rate-8000": ["84.78 29.77 90.60 62.94"],
    "mtt-rate-16000": ["85.46 30.42 90.97 64.08"],
    "transfer-msd": ["86.57 32.04"],
    "transfer-fma": ["86.22 30.58", "86.63 31.22"],
    "transfer-billboard": ["82.73 26.86", "84.22 27.82"],
    "transfer-gtzan": ["81.88 26.18", "85.43 29.49"],
}
# PR-AUC alone.
ALONE = {
    "crop": 30.49,
    "polarity": 31.46,
    "noise": 31.53,
    "gain": 31.1,
    "filter": 33.32,
    "delay": 30.50,
    "pitch": 31.48,
}
ALONE["reverb"] = 31.70
SWEEPS = {
    "polarity": "31.32 31.85",
    "filter": "32.64 33.50",
    "delay": "30.97 30.97",
    "pitch": "31.57 31.42",
    "reverb": "31.57 31.23",
}
SHARES = (1, 2, 5, 10, 20, 50, 100)
LABELS = {
    "mtt-clmr": "33.12 33.44 33.66 33.68 34.11 34.53 35.11",
    "mtt-supervised": "24.81 26.76 27.74 28.37 31.65 33.54 34.9",
    "msd-clmr": "22.31 22.85 23.20 23.27 23.19 24 25",
    "msd-supervised": "14.25 17.46 20.77 23.06 25.37 27 28.53",
}
METRICS = ("roc_auc", "average_precision", "roc_auc_by_clip", "average_precision_by_clip")


def published() -> dict[str, list[dict[str, float]]]:
    """What each recipe has to expect of each of its probes."""
    rows = {
        name: [dict(zip(METRICS, map(float, line.split()), strict=False)) for line in lines]
        for name, lines in TABLES.items()
    }
    alone = {f"mtt-only-{name}": score for name, score in ALONE.items()}
    for name, line in SWEEPS.items():
        alone |= {f"mtt-sweep-{name}-{p}": score for p, score in zip((0.4, 0.8), line.split(), strict=True)}
    for name, line in LABELS.items():
        which, what = name.split("-")
        alone |= {f"labels-{which}-{what}-{n}": score for n, score in zip(SHARES, line.split(), strict=True)}
    alone["mtt-untrained"] = "15.38"
    rows |= {name: [{"average_precision": float(score)}] for name, score in alone.items()}
    rows["msd-supervised"] = [{"roc_auc": 88.42}]
    rows["gtzan-jukemir"] = [{"accuracy": 68.6}]
    return rows


def head_of(recipe: Recipe) -> str:
    """The comment at its beginning as one line."""
    lines = recipe.text.partition("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(line.removeprefix("#").strip() for line in lines)


def test_every_published_row_has_its_recipe_and_every_recipe_its_row():
    expected = {name: [probe.expected_percent for probe in recipe.probes] for name, recipe in RECIPES_BY_NAME.items()}
    for name, recipe in RECIPES_BY_NAME.items():
        # A true share of the songs, beside the paper's few labels, was never published.
        if name.startswith("labels-") and recipe.model_of and not name.endswith("-100"):
            assert expected[name].pop() == {}
            share, own_share = (probe.settings for probe in recipe.probes)
            assert share["labels_like_paper"] == own_share["labels"] == int(name.rpartition("-")[2]) / 100
    assert expected == published()


def test_the_report_has_the_same_published_numbers():
    rows = [row for table in json.loads(PUBLISHED_FILE.read_text())["tables"] for row in table["rows"]]
    names = ("roc_auc", "average_precision", "accuracy")
    known = {tuple(row.get(name) for name in names) for row in rows}
    for name, recipe in RECIPES_BY_NAME.items():
        for probe in recipe.probes:
            expected = tuple(probe.expected_percent.get(metric) for metric in names)
            assert expected in known or not probe.expected_percent, name


@EACH
def test_the_report_puts_the_number_of_a_recipe_beside_its_rows(recipe, tmp_path):
    base = RECIPES_BY_NAME[recipe.model_of or recipe.name]
    trained_on, config = PUBLISHED_CORPORA[base.train["corpus"]], to_json(base.train_config())
    # What may end early is exported at some step.
    step = 1_000 if config["epochs"] else config["steps"]
    settings = {name: value for name, value in config.items() if value is not None and name not in ("steps", "corpus")}
    write_manifest(tmp_path, step, trained_on, **settings)
    for probe in recipe.probes:
        given = {**base.train, **probe.settings} if probe.settings.get("head") == "own" else probe.settings
        choice = next((name for name in ("labels", "labels_like_paper") if name in given), None)
        written = result(
            0.3,
            kind="untrained" if probe.settings.get("features") == "untrained" else "model",
            head=probe.settings.get("head", "linear"),
            preset=probe.settings["preset"],
            corpus=PUBLISHED_CORPORA[probe.settings["corpus"]],
            choice={None: "all", "labels": "songs", "labels_like_paper": "like-paper"}[choice],
            share=given.get(choice, 1.0),
            step=step,
            accuracy=0.3 if "accuracy" in probe.expected_percent else None,
            width=config["width"],
        )
        write(tmp_path / "evaluation-x.json", written)
        ((row,), _) = rows_of(read_results(tmp_path)[0])
        beside = read_published().beside(row)
        found = {} if beside is None else {name: float(100 * score) for name, score in beside.scores.items()}
        expected = {name: score for name, score in probe.expected_percent.items() if not name.endswith("by_clip")}
        # Two numbers were published of one row, and that of the figure is left to the list of all.
        expected |= {
            "labels-mtt-supervised-100": {"average_precision": 34.38},
            "labels-msd-clmr-100": {"average_precision": 24.98},
        }.get(recipe.name, {})
        assert {name: found[name] for name in expected} == expected and bool(found) == bool(expected)


@EACH
def test_the_head_has_command_data_scores_and_steps_of_the_body(recipe):
    head, base = head_of(recipe), RECIPES_BY_NAME[recipe.model_of or recipe.name]
    assert f"python -m clmr_tf.recipes run {recipe.name} " in head
    assert f"Row {recipe.table}: {recipe.row}; {recipe.source}." in " ".join(head.split())
    rate_hz = base.train_config().sample_rate_hz
    for corpus in {base.train["corpus"], *(probe.settings["corpus"] for probe in recipe.probes)}:
        assert is_pipeline(corpus)
        rate = "" if rate_hz == 22_050 else f" --sample-rate-hz {rate_hz} --out corpora/{corpus}-{rate_hz}hz"
        assert f"`python -m pipelines.{corpus}{rate}`" in head
    scores = re.search(r"Expected(.*?)Steps", head)[1]
    expected = [value for probe in recipe.probes for value in probe.expected_percent.values()]
    assert [float(text) for text in re.findall(r" (\d+(?:\.\d+)?)", scores)] == expected
    assert (f"of the recipe {base.name}," in head) == (recipe.model_of is not None)
    if recipe.epochs:
        per_epoch = recipe.epochs.num_units // recipe.train["batch_size"]
        steps = f"{recipe.epochs.count:,} epochs x {per_epoch:,} = {recipe.train['steps']:,};"
        units = f"{recipe.epochs.num_units:,} {recipe.epochs.of}s in batches of {recipe.train['batch_size']}"
        assert f"Steps {steps} an epoch is {units}" in " ".join(head.split())


@pytest.mark.parametrize("recipe", [one for one in RECIPES_BY_NAME.values() if one.train and "objective" in one.train])
def test_the_head_has_the_patience_of_what_may_end_early(recipe):
    train, head = recipe.train, " ".join(head_of(recipe).split())
    assert f"at most {train['epochs']} epochs of " in head and f"in batches of {train['batch_size']};" in head
    assert f"after {train['early_stopping']} validations in a row, one every {train['validate_every']:,} steps" in head
    # Once an epoch of all clips of the split, all of whose validation clips are looked at.
    sizes = {"magnatagatune": (18_706, 1_825), "msd": (201_680, 11_774)}[train["corpus"]]
    assert (math.ceil(sizes[0] / train["batch_size"]), sizes[1]) == (
        train["validate_every"],
        train["num_validation_pairs"],
    )


@pytest.mark.parametrize(
    "recipe", [one for one in RECIPES_BY_NAME.values() if one.epochs and one.train["corpus"] == "magnatagatune"]
)
def test_the_head_has_the_steps_of_the_other_meaning_of_epoch(recipe):
    # 3,923 songs and 18,706 clips of the split of Pons et al.; see docs/recipes.md.
    batch_size, num_epochs = recipe.train["batch_size"], recipe.epochs.count
    units = {"song": 3_923, "clip": 18_706}
    assert units.pop(recipe.epochs.of) == recipe.epochs.num_units
    ((other, num_units),) = units.items()
    per_epoch = num_units // batch_size
    words = f"it is {num_units:,} {other}s: {per_epoch:,} steps, {num_epochs * per_epoch:,} in all."
    assert words in " ".join(head_of(recipe).split())


def test_steps_per_epoch_are_those_that_are_known():
    # Of the thesis' code and of the released one, with batches of 48 and 96.
    known = {("song", 48): 81, ("song", 96): 40, ("song", 456): 8, ("clip", 48): 389}
    found = {
        (one.epochs.of, one.train["batch_size"]): one.epochs.steps_per_epoch(one.train["batch_size"])
        for one in RECIPES_BY_NAME.values()
        if one.epochs and one.train["corpus"] == "magnatagatune"
    }
    assert found == known


def settings_of(name: str) -> dict:
    recipe = RECIPES_BY_NAME[name]
    return {**recipe.train, "probe": recipe.probes[0].settings}


@pytest.mark.parametrize("name", [name for name in RECIPES_BY_NAME if name.startswith(("mtt-only", "mtt-sweep"))])
def test_ablations_differ_in_the_augmentation_alone(name):
    crop, one = settings_of("mtt-only-crop"), settings_of(name)
    changes = one.pop("augmentation_changes", [])
    assert {**one, "augmentation": "none"} == crop
    parts = name.split("-")
    assert one["augmentation"] == ("none" if parts[2] == "crop" else f"only-{parts[2]}")
    assert changes == ([f"{parts[2]}.probability={parts[3]}"] if parts[1] == "sweep" else [])


def differing(first: str, second: str) -> set[str]:
    one, other = settings_of(first), settings_of(second)
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


def test_rows_of_a_table_differ_in_what_the_table_is_about():
    how_often = {"log_every", "validate_every", "checkpoint_every", "embeddings_every"}
    assert differing("mtt-epochs-3000", "mtt-epochs-10000") == {"steps"}
    assert differing("mtt-epochs-3000", "mtt-epochs-1000") == {"steps"} | how_often
    assert differing("mtt-temperature-0.1", "mtt-temperature-0.5") == {"temperature"}
    assert differing("mtt-rate-8000", "mtt-temperature-0.5") == {"sample_rate_hz"}
    rates = {RECIPES_BY_NAME[name].train_config().sample_rate_hz for name in RECIPES_BY_NAME if "rate-" in name}
    assert rates == set(SAMPLE_RATES_HZ) - {22_050}
    for which in ("mtt", "msd"):
        assert differing(f"labels-{which}-supervised-1", f"labels-{which}-supervised-50") == {"labels_like_paper"}
