"""Links between the documents, and the files that they mention."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT, ROOT / "docs", ROOT / "savedmodels", ROOT / "tests" / "golden")
PAGES = sorted(page for folder in FOLDERS for page in folder.glob("*.md"))
# Files of the repository; runs/ and corpora/ belong to the user.
NAMED_FILE = re.compile(r"`((?:clmr_tf|pipelines|tests|docs|recipes|benchmarks)/[\w./-]+\.(?:py|md|json|csv|yaml))`")


def anchors_of(page: Path) -> set[str]:
    """Returns the anchors that GitHub generates for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_mentioned_file_exists(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), target
    for name in NAMED_FILE.findall(text):
        assert (ROOT / name).is_file(), name
