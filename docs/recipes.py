"""python -m docs.recipes: writes the table of docs/recipes.md from the recipes."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from clmr_tf.console import run_command, stdout
from clmr_tf.files import write_atomically
from clmr_tf.recipes.recipe import Recipe, read_recipes

PAGE = Path(__file__).with_name("recipes.md")
_BEGIN, _END = "<!-- python -m docs.recipes -->\n", "<!-- end -->\n"


def page_with(recipes: Mapping[str, Recipe], page: str) -> str:
    """The page with its table generated from `recipes`; ValueError if it has no place for one."""
    before, _, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"The page has no {_BEGIN.strip()} with {_END.strip()} after it.")
    return before + _BEGIN + _table(recipes) + _END + after


def _table(recipes: Mapping[str, Recipe]) -> str:
    lines = ["| recipe | row | data | steps | expected, % |", "|---|---|---|---|---|"]
    for name, *cells in (recipe.summary() for recipe in recipes.values()):
        lines.append(f"| [{name}](../recipes/{name}.yaml) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Runs the command, which takes no arguments."""
    write_atomically(PAGE, page_with(read_recipes(), PAGE.read_text(encoding="utf-8")))
    stdout.print(f"Written: {PAGE.name}")


if __name__ == "__main__":
    sys.exit(run_command(main))
