"""python -m clmr_tf.recipes: published rows, measured anew.

    python -m clmr_tf.recipes list                          every row, its data and its score
    python -m clmr_tf.recipes show mtt-epochs-1000          what is known about it, and its commands
    python -m clmr_tf.recipes run mtt-epochs-1000           trains, exports, probes, and compares with the score

The same command again goes on where it was stopped.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich import box
from rich.table import Table

from clmr_tf.config.command_line import parse_command
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import UsageError

if TYPE_CHECKING:
    from clmr_tf.recipes.recipe import Recipe
    from clmr_tf.recipes.run import Chain, Comparison

_ACTIONS = ("list", "show", "run")


@dataclasses.dataclass(frozen=True)
class RecipesConfig:
    """Settings of the command."""

    action: tyro.conf.Positional[str] = "list"
    """list, show or run."""
    name: tyro.conf.Positional[str | None] = None
    """The recipe to show or run."""
    recipes: Path | None = None
    """Folder of recipes. Default: those of the project."""
    corpora: Path = Path("corpora")
    """Folder of prepared corpora."""
    runs: Path = Path("runs")
    """Folder for the runs; each is called like its recipe."""
    savedmodels: Path = Path("savedmodels")
    """Folder for the exported models with the results of their probes; each is called like its recipe."""
    features_cache: Path = Path("features")
    """Folder that keeps features once they are computed."""
    dry_run: bool = False
    """Check recipe, data and commands, show what would be run, and run nothing."""
    train_changes: tuple[str, ...] = ()
    """Settings of the training to change, each NAME=VALUE, such as `precision=mixed_bfloat16` or `micro_batches=2`.
    The score is then no longer that of the row."""
    probe_changes: tuple[str, ...] = ()
    """Settings of all its probes to change, such as `labels=0.01`."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        RecipesConfig,
        arguments,
        program="python -m clmr_tf.recipes",
        description="Lists, shows and runs recipes: the settings, data and scores of published rows.",
    )
    if config.action not in _ACTIONS:
        raise UsageError(f"There is nothing called {config.action!r} to do; choose one of {', '.join(_ACTIONS)}.")
    from clmr_tf.recipes.recipe import RECIPES, read_recipes, read_with_base

    folder = RECIPES if config.recipes is None else config.recipes.expanduser()
    if config.action == "list":
        if config.name is not None:
            raise UsageError(f"`list` names all recipes and takes no name; `show {config.name}` shows one.")
        stdout.print("\n".join(_lines_of(read_recipes(folder))), markup=False)
        return
    if config.name is None:
        raise UsageError(
            f"Name the recipe to {config.action}, as in `{config.action} mtt-epochs-1000`; `list` names all."
        )
    chain = _chain(*read_with_base(folder, config.name), config)
    (_show if config.action == "show" else _run)(chain, config)


def _chain(recipe: "Recipe", base: "Recipe", config: RecipesConfig) -> "Chain":
    from clmr_tf.recipes.run import Chain, Places

    folders = config.corpora, config.runs, config.savedmodels, config.features_cache
    changed_base = base.changed(config.train_changes, ())
    changed = (changed_base if base is recipe else recipe).changed((), config.probe_changes)
    digest = hashlib.sha256(json.dumps(sorted(config.probe_changes)).encode()).hexdigest()[:8]
    return Chain(
        changed,
        changed_base,
        Places(*(folder.expanduser() for folder in folders)),
        tag=f"changed-{digest}" if config.probe_changes else "",
    )


def _show(chain: "Chain", config: RecipesConfig) -> None:
    stdout.print(chain.recipe.text.rstrip(), markup=False)
    if chain.recipe.model_of is not None:
        stdout.print(f"\n--- {chain.base.name}, whose model it is ---\n{chain.base.text.rstrip()}", markup=False)
    stdout.print("\n--- commands ---", markup=False)
    for command in chain.commands():
        stdout.print(command.line, markup=False)
    _note_changes(config)


def _run(chain: "Chain", config: RecipesConfig) -> None:
    from clmr_tf.recipes.run import compare, run_chain

    # Before anything takes days.
    chain.require_corpora()
    chain.require_same_run()
    chain.require_own_model()
    if config.dry_run:
        for place, command in enumerate(chain.commands()):
            stdout.print(command.line + ("  # done already" if chain.is_done(place) else ""), markup=False)
        stdout.print("The data are there; nothing was run.")
        return
    run_chain(chain)
    comparisons = compare(chain)
    stdout.print(_comparison_table(chain.recipe, comparisons))
    for remark in dict.fromkeys(one.remark for one in comparisons if one.remark):
        stdout.print(remark, markup=False)
    _note_changes(config)


def _note_changes(config: RecipesConfig) -> None:
    changes = [*config.train_changes, *config.probe_changes]
    if changes:
        stdout.print(f"Changed: {', '.join(changes)}; what was published is of other settings.", markup=False)


def _lines_of(recipes: Mapping[str, "Recipe"]) -> list[str]:
    """One line for each recipe, for a search to find."""
    from clmr_tf.recipes.run import corpora_in_words, expected_in_words

    columns = [
        (recipe.name, recipe.table, corpora_in_words(recipe, recipes), expected_in_words(recipe))
        for recipe in recipes.values()
    ]
    widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in columns]


def _comparison_table(recipe: "Recipe", comparisons: Sequence["Comparison"]) -> Table:
    from clmr_tf.recipes.run import METRIC_WORDS

    table = Table(title=f"{recipe.name}: {recipe.row} ({recipe.source})", box=box.SIMPLE)
    for heading in ("probe", "test", "measured, %", "95 %", "published, %", "difference"):
        table.add_column(heading, no_wrap=heading != "probe")
    for one in comparisons:
        low_high = "-" if one.interval_percent is None else "{:.2f}-{:.2f}".format(*one.interval_percent)
        published, difference = "-", "-"
        if one.expected_percent is not None:
            published = f"{one.expected_percent:g}"
            difference = f"{one.measured_percent - one.expected_percent:+.2f}"
        table.add_row(
            one.probe, METRIC_WORDS[one.metric], f"{one.measured_percent:.2f}", low_high, published, difference
        )
    return table


if __name__ == "__main__":
    sys.exit(run_command(main))
