"""Recipes: published rows as files that say how to measure them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from clmr_tf.config.command_line import from_plain
from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError, suggestion
from clmr_tf.probe.settings import ProbeConfig

METRICS: Mapping[str, tuple[str, ...]] = {
    "roc_auc": ("roc_auc", "over_tags"),
    "average_precision": ("average_precision", "over_tags"),
    "roc_auc_by_clip": ("roc_auc", "over_clips"),
    "average_precision_by_clip": ("average_precision", "over_clips"),
    "accuracy": ("accuracy",),
}
"""What a recipe may expect, and where the scores of a probe hold it; average precision is the paper's PR-AUC."""

# Where things go is decided when a recipe is run.
_PLACES: Mapping[type, tuple[str, ...]] = {
    TrainConfig: ("workdir", "corpora"),
    ProbeConfig: ("model", "corpora", "out", "features_cache"),
}


@dataclasses.dataclass(frozen=True)
class Epochs:
    """What the source of a row calls its epochs.

    Attributes:
        count: How many.
        of: What one of them visits once each: every "song" (the code of the thesis) or every "clip" (the released one).
        num_units: How many songs or clips the train split has, as published.
    """

    count: int
    of: Literal["song", "clip"]
    num_units: int

    def steps_per_epoch(self, batch_size: int) -> int:
        """Steps of one epoch, without the remainder that does not fill a batch."""
        return self.num_units // batch_size


@dataclasses.dataclass(frozen=True)
class RecipeProbe:
    """One evaluation of a recipe.

    Attributes:
        settings: Of `clmr_tf.probe`, by name, as the file has them.
        expected_percent: By the names in `METRICS`; empty where nothing was published.
    """

    settings: Mapping[str, Any]
    expected_percent: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        name: Of its file, without the ending.
        table: The published table or figure.
        row: Its row.
        source: Who published it.
        train: Settings of `clmr_tf.train`, by name, as the file has them; None where another recipe trains.
        model_of: The recipe whose model is evaluated; None where this one trains.
        epochs: Where the steps come from; None where they are nobody's epochs.
        checkpoint: Which one is exported, "newest" or "best".
        probes: The evaluations, at least one.
        text: The whole file.
    """

    name: str
    table: str
    row: str
    source: str
    train: Mapping[str, Any] | None
    model_of: str | None
    epochs: Epochs | None
    checkpoint: str
    probes: tuple[RecipeProbe, ...]
    text: str

    def train_config(self, where: str = "") -> TrainConfig:
        """The settings of the training with all defaults; raises UsageError for what no run can have."""
        return _config(TrainConfig, self.train, f"{where or self.name}: train")

    def changed(self, train_changes: Sequence[str], probe_changes: Sequence[str]) -> "Recipe":
        """The same with settings exchanged, each `NAME=VALUE` as in YAML; raises UsageError for what cannot be."""
        if not train_changes and not probe_changes:
            return self
        train = self.train and {**self.train, **_parsed(train_changes, "--train-changes")}
        changes = _parsed(probe_changes, "--probe-changes")
        probes = [dataclasses.replace(probe, settings={**probe.settings, **changes}) for probe in self.probes]
        # The steps are no longer those of the row.
        recipe = dataclasses.replace(self, train=train, probes=tuple(probes), epochs=None)
        check_recipe(recipe, f"The recipe {self.name}, as changed")
        return recipe


def check_recipe(recipe: Recipe, where: str) -> None:
    """Checks everything that can be checked without data.

    Args:
        recipe: As it was read.
        where: What to call it in an error.

    Raises:
        UsageError: If a setting does not exist or cannot be, or the steps are not those of the epochs.
    """
    if (recipe.train is None) == (recipe.model_of is None):
        raise UsageError(f"{where} must have either `train` or `model_of`; it has both or neither.")
    if recipe.checkpoint not in ("newest", "best"):
        raise UsageError(f"{where}: `checkpoint` must be newest or best; received {recipe.checkpoint!r}.")
    for probe in recipe.probes:
        evaluation = _config(ProbeConfig, probe.settings, f"{where}: probes")
        if evaluation.preset == "quick":
            raise UsageError(f"{where}: the preset quick is no published protocol; choose released, thesis or grid.")
        unknown = sorted(set(probe.expected_percent) - set(METRICS))
        if unknown:
            raise UsageError(f"{where}: nothing measures `{unknown[0]}`; there are {', '.join(METRICS)}.")
    if recipe.train is None:
        return
    config = recipe.train_config(where)
    require_own_heads(recipe, recipe, where)
    if recipe.epochs is None:
        return
    if recipe.epochs.of != config.sampling_unit:
        raise UsageError(f"{where}: epochs of each {recipe.epochs.of} need `sampling_unit: {recipe.epochs.of}`.")
    num_steps = recipe.epochs.count * recipe.epochs.steps_per_epoch(config.batch_size)
    if config.steps != num_steps:
        raise UsageError(f"{where}: its epochs are {num_steps} steps of {config.batch_size}; received {config.steps}.")


def require_own_heads(recipe: Recipe, base: Recipe, where: str) -> None:
    """Raises UsageError if a recipe scores a head that the recipe which trains its model does not train."""
    if base.train_config(where).has_labels:
        return
    if any(probe.settings.get("head") == "own" for probe in recipe.probes):
        raise UsageError(
            f"{where}: a probe by its own head needs `objective: supervised` or finetune in {base.name}; none is "
            "trained."
        )


def _config(config_type: type, settings: Any, where: str) -> Any:
    try:
        config = from_plain(config_type, settings, where=where)
    except UsageError as error:
        # Of what a setting can be, the configuration itself says nothing about where it was read.
        raise error if where in str(error) else UsageError(f"{where}: {error}") from error
    placed = [name for name in _PLACES[config_type] if name in settings]
    if placed:
        raise UsageError(f"{where}: `{placed[0]}` is decided when the recipe is run; leave it out.")
    # Of the demo corpus, the default, nothing was published.
    if "corpus" not in settings or not re.fullmatch(r"[a-z][a-z0-9_]*", config.corpus):
        raise UsageError(f"{where}: `corpus` must name a pipeline; received {settings.get('corpus')!r}.")
    return config


def _parsed(changes: Sequence[str], option: str) -> dict[str, Any]:
    parsed = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UsageError(f"{option} takes NAME=VALUE, such as seed=1; received {change!r}.")
        try:
            parsed[name.strip().replace("-", "_")] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"The value of {change!r} cannot be read; write it as in YAML.") from error
    return parsed


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
