"""python -m clmr_tf.recipes: lists, shows and runs recipes, which reproduce published rows."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich import box
from rich.table import Table

from clmr_tf.config.command_line import parse_command
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import UsageError

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
    """Folder for the runs; each is named after its recipe."""
    savedmodels: Path = Path("savedmodels")
    """Folder for the exported models with their results; each is named after its recipe."""
    features_cache: Path = Path("features")
    """Folder for computed features."""
    dry_run: bool = False
    """Check the recipe and its data, show the commands, and run nothing."""
    train_changes: tuple[str, ...] = ()
    """Training settings to change, each NAME=VALUE, such as `precision=mixed_bfloat16` or `micro_batches=2`. The score
    is then no longer that of the published row."""
    probe_changes: tuple[str, ...] = ()
    """Probe settings to change, for all probes, such as `labels=0.01`."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        RecipesConfig,
        arguments,
        program="python -m clmr_tf.recipes",
        description="Lists, shows and runs recipes: the settings, data and scores of published rows.",
    )
    if config.action not in _ACTIONS:
        raise UsageError(f"There is no action {config.action!r}; choose one of {', '.join(_ACTIONS)}.")
    if (config.name is None) != (config.action == "list"):
        raise UsageError("`list` takes no name; `show` and `run` take one, as in `show mtt-epochs-1000`.")
    # Imported only once the command line is valid: these take a second to import.
    from clmr_tf.recipes.recipe import RECIPES, read_recipe, read_recipes
    from clmr_tf.recipes.run import RecipeRun, line_of

    folder = (config.recipes or RECIPES).expanduser()
    if config.action == "list":
        rows = [recipe.summary() for recipe in read_recipes(folder).values()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        stdout.print("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows), markup=False)
        return
    recipe = read_recipe(folder, config.name)
    folders = [path.expanduser() for path in (config.corpora, config.runs, config.savedmodels, config.features_cache)]
    run = RecipeRun(recipe.changed(config.train_changes, config.probe_changes), *folders, config.probe_changes)
    lines = list(map(line_of, run.commands()))
    if config.action == "show":
        base = "" if recipe.base == recipe.name else f"\n--- {recipe.base} ---\n{read_recipe(folder, recipe.base).text}"
        stdout.print("\n".join([f"{recipe.text}{base}", "--- commands ---", *lines]), markup=False)
    else:
        # Checked before a training that takes days.
        run.require_corpora()
        run.require_no_longer_run()
        if config.dry_run:
            stdout.print("\n".join([*lines, "All data were found. Nothing was run."]), markup=False)
            return
        run.execute()
        rows, remarks = run.compare()
        table = Table(title=f"{recipe.name}: {recipe.row} ({recipe.source})", box=box.SIMPLE)
        for heading in ("probe", "test", "measured, %", "95 %", "published, %", "difference"):
            table.add_column(heading, no_wrap=heading != "probe")
        for row in rows:
            table.add_row(*row)
        stdout.print(table, *remarks, sep="\n", markup=False)
    if changes := [*config.train_changes, *config.probe_changes]:
        stdout.print(f"Changed: {', '.join(changes)}; the published scores are for other settings.", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
