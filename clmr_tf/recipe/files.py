"""Recipes on disk: one YAML file each, checked as it is read.

# a head in words: which row of which table, command, data, expected score, steps
table: training duration                            what the row stands in
row: CLMR, batches of 96, 3,000 epochs              the row
source: thesis, table of training durations         where it was published
train: {corpus: magnatagatune, steps: 120000, ...}  settings of `clmr_tf.train`; or `model_of: OTHER-RECIPE`
epochs: {count: 3000, of: song, num_units: 3923}    where the steps come from: 3000 (3923 // batch size)
checkpoint: newest                                  or `best`: which one is exported; may be left out
probes:                                             settings of `clmr_tf.probe`, and what was published, in percent
  - {corpus: magnatagatune, preset: thesis, head: linear, expected_percent: {roc_auc: 88.49}}
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clmr_tf.command_line import from_plain
from clmr_tf.errors import UsageError, suggestion
from clmr_tf.recipe.recipe import Epochs, Recipe, RecipeProbe, check_recipe, require_own_heads

RECIPES = Path(__file__).parents[2] / "recipes"
"""The recipes that come with the project."""

_REQUIRED = ("table", "row", "source", "probes")
_OPTIONAL = ("train", "model_of", "epochs", "checkpoint")


def read_recipes(folder: Path) -> dict[str, Recipe]:
    """All recipes of a folder by name, numbers in names sorted by their size.

    Raises:
        UsageError: If there is none, or one cannot be read.
    """
    return {path.stem: read_recipe(path) for path in _paths_in(folder)}


def read_with_base(folder: Path, name: str) -> tuple[Recipe, Recipe]:
    """A recipe, and the one that trains its model: itself, or the one that it names.

    Raises:
        UsageError: If there is no such recipe, naming the nearest, if one of them cannot be read, or the other one does
            not train.
    """
    paths = {path.stem: path for path in _paths_in(folder)}
    if name not in paths:
        advice = suggestion(name, paths, "`python -m clmr_tf.recipes list` names all.")
        raise UsageError(f"There is no recipe {name!r}; {advice}")
    recipe = read_recipe(paths[name])
    if recipe.model_of is None:
        return recipe, recipe
    base = read_recipe(paths[recipe.model_of]) if recipe.model_of in paths else None
    if base is None or base.train is None:
        raise UsageError(f"{paths[name]}: `model_of` must name a recipe that trains; received {recipe.model_of!r}.")
    require_own_heads(recipe, base, str(paths[name]))
    return recipe, base


def read_recipe(path: Path) -> Recipe:
    """Reads one recipe and checks all that can be checked without its data.

    Raises:
        UsageError: If it cannot be read, lacks something, or `check_recipe` refuses it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        plain = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise UsageError(f"The recipe {path} cannot be read: {reason}.") from error
    if not isinstance(plain, Mapping):
        raise UsageError(f"{path} must hold a recipe as `name: value`; received {type(plain).__name__}.")
    lacking = [name for name in _REQUIRED if not plain.get(name)]
    unknown = [name for name in plain if name not in (*_REQUIRED, *_OPTIONAL)]
    if lacking or unknown:
        what = f"lacks `{lacking[0]}`" if lacking else f"has an entry `{unknown[0]}`, which no recipe has"
        raise UsageError(f"{path} {what}; the entries are {', '.join((*_REQUIRED, *_OPTIONAL))}.")
    if not isinstance(plain["probes"], list):
        raise UsageError(f"{path}: `probes` must be a list; received {plain['probes']!r}.")
    epochs = plain.get("epochs")
    recipe = Recipe(
        name=path.stem,
        table=str(plain["table"]),
        row=str(plain["row"]),
        source=str(plain["source"]),
        train=plain.get("train"),
        model_of=plain.get("model_of"),
        epochs=None if epochs is None else _epochs(epochs, f"{path}: epochs"),
        checkpoint=plain.get("checkpoint", "newest"),
        probes=tuple(_probe(entry, f"{path}: probes") for entry in plain["probes"]),
        text=text,
    )
    check_recipe(recipe, str(path))
    return recipe


def _paths_in(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.yaml"), key=_place)
    if not paths:
        raise UsageError(f"There are no recipes in {folder}; give --recipes a folder that has some.")
    return paths


def _place(path: Path) -> list[str | float]:
    # At each place of the list either text or a number, so that any two can be compared.
    parts = re.split(r"(\d+(?:\.\d+)?)", path.stem)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def _epochs(plain: Any, where: str) -> Epochs:
    try:
        return from_plain(Epochs, plain, where=where)
    except TypeError as error:
        raise UsageError(f"{where} must have count, of and num_units; received {plain!r}.") from error


def _probe(plain: Any, where: str) -> RecipeProbe:
    if not isinstance(plain, Mapping):
        raise UsageError(f"{where} must hold settings as `name: value`; received {plain!r}.")
    expected = plain.get("expected_percent", {})
    if not isinstance(expected, Mapping) or not all(type(value) in (int, float) for value in expected.values()):
        raise UsageError(f"{where}: `expected_percent` must hold numbers by metric; received {expected!r}.")
    settings = {name: value for name, value in plain.items() if name != "expected_percent"}
    return RecipeProbe(settings, {name: float(value) for name, value in expected.items()})
