"""Recipe files: published rows, their scores, and the settings of the run that reproduces them."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from clmr_tf.config.command_line import from_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError, suggestion
from clmr_tf.probe.settings import ProbeConfig

RECIPES = Path(__file__).parents[2] / "recipes"
"""The recipes of the project."""

OTHER_PUBLISHED = "other-published.yaml"
_UNPUBLISHED_PRESETS = ("standard", "retrieval")

METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "roc_auc": ("ROC-AUC", ("roc_auc", "over_tags")),
    "average_precision": ("PR-AUC", ("average_precision", "over_tags")),
    "roc_auc_by_clip": ("ROC-AUC by clip", ("roc_auc", "over_clips")),
    "average_precision_by_clip": ("PR-AUC by clip", ("average_precision", "over_clips")),
    "accuracy": ("accuracy", ("accuracy",)),
}
"""Scores that a recipe may have: the paper's name, and the path to the score in a result of the probe."""

PUBLISHED_CORPORA: Mapping[str, str] = {
    "billboard": "billboard",
    "fma": "fma-medium",
    "gtzan": "gtzan-fault-filtered",
    "magnatagatune": "magnatagatune-pons2017",
    "msd": "msd-lee2017",
}
"""For each pipeline, the name of the corpus of the published rows: a pipeline can prepare several."""


@dataclasses.dataclass(frozen=True)
class RecipeProbe:
    """One evaluation of a recipe.

    Attributes:
        settings: Settings of `clmr_tf.probe` by name, as in the file.
        expected_percent: Published scores by the names in `METRICS`; empty if nothing was published.
    """

    settings: Mapping[str, Any]
    expected_percent: Mapping[str, float]

    @property
    def config(self) -> ProbeConfig:
        """The settings with all defaults; raises UsageError if they are not valid."""
        return from_json(ProbeConfig, self.settings, where="probes")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        name: Name of its file, without the ending.
        base: Name of the recipe that trains the model: its own, or `model_of` in the file.
        table: Published table or figure.
        row: Row of the table.
        source: Who published it.
        train: Settings of `clmr_tf.train`, by name; `epochs` of the file are turned into steps.
        checkpoint: The exported checkpoint, "newest" or "best".
        probes: The evaluations, at least one.
        text: The whole file.
    """

    name: str
    base: str
    table: str
    row: str
    source: str
    train: Mapping[str, Any]
    checkpoint: str
    probes: tuple[RecipeProbe, ...]
    text: str

    def __post_init__(self) -> None:
        """Raises UsageError for invalid settings; otherwise a run could fail after days."""
        try:
            has_labels = self.train_config.has_labels
            for probe in self.probes:
                if (preset := probe.config.preset) in _UNPUBLISHED_PRESETS:
                    raise UsageError(
                        f"the preset {preset} is not a published protocol; choose released, thesis or grid."
                    )
                if probe.config.head == "own" and not has_labels:
                    raise UsageError("--head own needs a model trained with labels; set objective: supervised.")
                if unknown := set(probe.expected_percent) - set(METRICS):
                    raise UsageError(f"there is no score {min(unknown)!r}; choose from {', '.join(METRICS)}.")
        except UsageError as error:
            raise UsageError(f"Recipe {self.name}: {error}") from error

    @functools.cached_property
    def train_config(self) -> TrainConfig:
        """The settings of the training with all defaults; raises UsageError if they are not valid."""
        return from_json(TrainConfig, self.train, where="train").resolved()

    @property
    def corpora(self) -> list[str]:
        """The pipelines of the corpora it trains on and is evaluated on, each once."""
        return list(dict.fromkeys([self.train["corpus"], *(probe.settings["corpus"] for probe in self.probes)]))

    def changed(self, train_changes: Sequence[str], probe_changes: Sequence[str]) -> "Recipe":
        """The recipe with other settings, each `NAME=VALUE` with a value in YAML; UsageError if they are not valid."""
        train = {**self.train, **_parse_changes(train_changes, "--train-changes")}
        changes = _parse_changes(probe_changes, "--probe-changes")
        probes = [dataclasses.replace(probe, settings={**probe.settings, **changes}) for probe in self.probes]
        return dataclasses.replace(self, train=train, probes=tuple(probes))

    def summary(self) -> list[str]:
        """Its name, row, corpora, steps, and main scores in percent: "ROC-AUC 88.49, PR-AUC 35.11 (linear); ..."."""
        steps = f"{self.train_config.steps:,}"
        if self.train_config.epochs:
            steps = f"{self.train_config.epochs} epochs at most"
        scores = []
        for probe in self.probes:
            main = [
                f"{METRICS[name][0]} {value:g}" for name, value in probe.expected_percent.items() if "by" not in name
            ]
            if main:
                scores.append(f"{', '.join(main)} ({'grid' if probe.config.preset == 'grid' else probe.config.head})")
        return [
            self.name,
            f"{self.table}: {self.row}",
            ", ".join(self.corpora),
            steps if self.base == self.name else f"of {self.base}",
            "; ".join(scores),
        ]


def _parse_changes(changes: Sequence[str], option: str) -> dict[str, Any]:
    parsed = {}
    for change in changes:
        name, equals, text = change.partition("=")
        try:
            parsed[name.replace("-", "_")] = yaml.safe_load(text)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise UsageError(f"{option} takes NAME=VALUE with a value in YAML, such as seed=1; received {change!r}.")
    return parsed


def read_recipes(folder: Path = RECIPES) -> dict[str, Recipe]:
    """All recipes of a folder by name, sorted so that 2 comes before 10; UsageError if there is none."""
    paths = sorted(folder.glob("*.yaml"), key=lambda path: re.sub(r"\d+", lambda digits: digits[0].zfill(9), path.stem))
    recipes = {path.stem: read_recipe(folder, path.stem) for path in paths if path.name != OTHER_PUBLISHED}
    if not recipes:
        raise UsageError(f"There are no recipes in {folder}; give --recipes a folder that has some.")
    return recipes


def read_recipe(folder: Path, name: str) -> Recipe:
    """Reads and checks one recipe, with the training of the recipe that it names as `model_of`, if any.

    Raises:
        UsageError: If there is no such recipe, it cannot be read, or its settings are not valid.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        advice = suggestion(name, (other.stem for other in folder.glob("*.yaml")), "`list` names all recipes.")
        raise UsageError(f"There is no recipe {name!r} in {folder}; {advice}")
    try:
        text = path.read_text(encoding="utf-8")
        entries = {"checkpoint": "newest", **yaml.safe_load(text)}
        if "model_of" in entries:
            base = read_recipe(folder, entries.pop("model_of"))
            entries |= {"base": base.base, "train": base.train, "checkpoint": base.checkpoint}
        if epochs := entries.pop("epochs", None):
            num_steps = epochs["count"] * (epochs["num_units"] // entries["train"]["batch_size"])
            entries["train"] |= {"sampling_unit": epochs["of"], "steps": num_steps}
        probes = [
            RecipeProbe({key: value for key, value in probe.items() if key != "expected_percent"}, expected)
            for probe in entries.pop("probes")
            for expected in [probe.get("expected_percent", {})]
        ]
        return Recipe(**{"name": name, "base": name, "probes": tuple(probes), "text": text, **entries})
    except (OSError, ValueError, TypeError, AttributeError, LookupError, yaml.YAMLError) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise UsageError(f"{path} is not a recipe ({reason}); write it like {RECIPES / 'mtt-clmr.yaml'}.") from error


def remark_on_test_split(corpus: str, task: Any, num_clips: int) -> str | None:
    """A warning if a test split with the corpus' own tags (`task` is None) does not have the published size."""
    num_published = read_other_published()["num_test_clips"].get(corpus)
    if task is not None or num_published in (None, num_clips):
        return None
    return f"The published test split has {num_published:,} clips; do not compare these scores with published ones."


@functools.cache
def read_other_published() -> dict[str, Any]:
    """The numbers that no recipe reproduces, the addresses of sources, and the sizes of published test splits."""
    return yaml.safe_load((RECIPES / OTHER_PUBLISHED).read_text(encoding="utf-8"))
