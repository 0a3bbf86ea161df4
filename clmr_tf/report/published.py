"""Published numbers, all from recipes/*.yaml, and which of them belong next to a row of a report."""

import dataclasses
import functools
from typing import Any

from clmr_tf.recipes.recipe import PUBLISHED_CORPORA, Recipe, RecipeProbe, read_other_published, read_recipes
from clmr_tf.report.results import Result, name_of

_ABLATION_TABLES = ("one augmentation alone", "probability of one augmentation")
_LABEL_TABLE = "few labels"
# Training settings that must equal those of the recipe, in addition to corpus, steps and augmentation.
_SETTINGS = ("batch_size", "sampling_unit", "optimizer", "temperature", "encoder", "width", "sample_rate_hz")


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """A row of a published table.

    Attributes:
        corpus: Name of the corpus that was tested on.
        table: The table.
        row: The row.
        scores: Numbers in [0, 1] by "roc_auc", "average_precision" and "accuracy".
        source: Who published it.
        recipe: Name of the recipe that reproduces it, if there is one.
        run: What must be equal in a result that reproduces it, by the names in `_run_of`; None without a recipe.
    """

    corpus: str
    table: str
    row: str
    scores: dict[str, float]
    source: str
    recipe: str | None = None
    run: dict[str, Any] | None = None

    @property
    def link(self) -> str:
        """The source as a link in Markdown."""
        return f"[{self.source}]({read_other_published()['sources'][self.source]})"


def published_on(result: Result) -> list[PublishedRow]:
    """All published rows on the corpus of a result, if it uses the corpus' own tags."""
    return [row for row in _read_published() if row.corpus == result.corpus["name"] and result.task is None]


def published_beside(result: Result) -> list[PublishedRow]:
    """The published rows that a result reproduces: those of recipes with the same training and evaluation."""
    run = _run_of(result)
    return [row for row in published_on(result) if row.run and row.run.items() <= run.items()]


def published_ablation(result: Result) -> PublishedRow | None:
    """The published row with only the augmentation of a result, on any corpus."""
    augmentation = result.training.augmentation
    rows = [row for row in _read_published() if row.table in _ABLATION_TABLES]
    return next((row for row in rows if row.run["augmentation"] == augmentation), None)


def published_curves(result: Result) -> dict[str, list[tuple[float, float]]]:
    """Published PR-AUC over the fraction of labels on the corpus of a result, by the name of what was evaluated."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in published_on(result):
        if row.table == _LABEL_TABLE:
            point = row.run["labels"][1], row.scores["average_precision"]
            curves.setdefault(f"published: {row.run['name']}", []).append(point)
    return {name: sorted(points) for name, points in curves.items()}


@functools.cache
def _read_published() -> list[PublishedRow]:
    rows = [
        PublishedRow(
            corpus=PUBLISHED_CORPORA[probe.settings["corpus"]],
            table=recipe.table,
            row=f"{recipe.row}, {_run_of_recipe(recipe, probe)['name']}",
            scores=_fractions(probe.expected_percent),
            source=recipe.source,
            recipe=recipe.name,
            run=_run_of_recipe(recipe, probe),
        )
        for recipe in read_recipes().values()
        for probe in recipe.probes
        if probe.expected_percent
    ]
    return rows + [
        PublishedRow(table["corpus"], table["table"], name, _fractions(percent), table["source"])
        for table in read_other_published()["tables"]
        for name, percent in table["rows"].items()
    ]


def _fractions(percent: Any) -> dict[str, float]:
    return {name: round(value / 100, 6) for name, value in percent.items() if not name.endswith("_by_clip")}


def _run_of(result: Result) -> dict[str, Any]:
    run = {"name": result.name, "preset": result.preset, "labels": result.labels_used}
    if result.training:
        settings = result.training.settings
        run |= {"trained_on": result.training.corpus["name"], "augmentation": result.training.augmentation}
        run |= {"step": result.training.step} | {name: settings[name] for name in _SETTINGS}
    elif result.kind == "untrained":
        run |= result.features["architecture"]
    return run


def _run_of_recipe(recipe: Recipe, probe: RecipeProbe) -> dict[str, Any]:
    config, settings = recipe.train_config, probe.config
    head = "grid" if settings.preset == "grid" else settings.head
    # The model's own head was trained with the labels of the run.
    labels = config if head == "own" else settings
    few = labels.labels_like_paper
    choice = ("like-paper", few) if few else ("songs" if labels.labels < 1 else "all", labels.labels)
    run = {
        "name": name_of(settings.features, head, config.objective),
        "preset": settings.preset,
        "labels": choice,
        "width": config.width,
        "sample_rate_hz": config.sample_rate_hz,
    }
    if settings.features == "model":
        run |= {name: getattr(config, name) for name in _SETTINGS}
        run["trained_on"] = PUBLISHED_CORPORA[recipe.train["corpus"]]
        run["augmentation"] = " ".join([config.augmentation, *config.augmentation_changes])
        if not config.epochs:
            # With epochs a training may stop early, at any step.
            run["step"] = config.steps
    return run
