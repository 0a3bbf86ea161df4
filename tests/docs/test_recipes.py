"""The table on the recipes page matches the recipe files."""

import re

import pytest

from clmr_tf.recipes.recipe import read_recipes
from docs.recipes import PAGE, page_with


@pytest.fixture(scope="module")
def recipes():
    return read_recipes()


def test_committed_table_matches_the_recipe_files(recipes):
    page = PAGE.read_text(encoding="utf-8")
    assert page_with(recipes, page) == page, "run `python -m docs.recipes`"
    linked = re.findall(r"^\| \[([\w.-]+)\]\(\.\./recipes/\1\.yaml\) \|", page, flags=re.MULTILINE)
    assert sorted(linked) == sorted(recipes)
    # The text below the table mentions some of the recipes.
    assert set(re.findall(r"`(mtt-[\w.-]+)`", page)) <= set(linked)


def test_only_the_table_is_replaced(recipes):
    few = {name: recipes[name] for name in ("mtt-clmr", "transfer-msd", "msd-clmr", "msd-supervised")}
    begin, end = "<!-- python -m docs.recipes -->\n", "<!-- end -->\n"
    page = page_with(few, f"before\n{begin}old\n{end}after\n")
    before, table = page.removesuffix(f"{end}after\n").split(begin)
    assert before == "before\n"
    cells = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
    assert [row[2:4] for row in cells[2:]] == [
        ["magnatagatune", "3,890,000"],
        ["msd, magnatagatune", "of msd-clmr"],
        ["msd", "4,201,000"],
        ["msd", "500 epochs at most"],
    ]
    assert cells[3][4] == "ROC-AUC 86.57, PR-AUC 32.04 (linear)"
    with pytest.raises(ValueError, match="with <!-- end --> after it"):
        page_with(few, f"{begin}and nothing more")
