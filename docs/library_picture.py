"""python -m docs.library_picture: docs/library.png, the library page with the demo music, in Chromium.

python -m clmr_tf.embed pipelines/demo_data/audio --model savedmodels/music-small --hop-seconds 1.5 --out build/demo
python -m docs.library_picture build/demo
"""

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

PICTURE = Path(__file__).parent / "library.png"


def show(page: Page) -> None:
    """Chooses what the picture shows: songs like one of them, and its tags over time."""
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#map-state")).to_be_empty(timeout=300_000)
    page.select_option("#colour", "folder")
    page.fill("#search", "battlescape-06")
    expect(page.locator("#list-count")).to_have_text("1 song")
    page.locator("#list .row").click()
    page.click("#clear-filters")
    page.click("#more-like")
    page.wait_for_selector("#list .row .theirs", timeout=60_000)
    expect(page.locator("#time")).to_have_text("0:09 / 0:30", timeout=60_000)
    page.evaluate("document.getElementById('audio').pause()")
    page.mouse.move(600, 5)


def main(table: str) -> None:
    """Starts the page, and writes the picture."""
    command = [
        sys.executable,
        "-m",
        "clmr_tf.browse",
        table,
        "--model",
        "savedmodels/music-small",
        "--port",
        "0",
        "--no-open",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, sync_playwright() as driver:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        arguments = ["--autoplay-policy=no-user-gesture-required", "--no-sandbox"]
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        page.goto(address)
        show(page)
        page.screenshot(path=PICTURE)
        browser.close()
        process.terminate()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the table of the demo music, as in `python -m docs.library_picture build/demo`.")
    main(sys.argv[1])
