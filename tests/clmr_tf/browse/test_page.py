"""The library page in a real browser: what a person sees, hears and does."""

import dataclasses
import json
import re
import shutil
import time

import numpy as np
import pytest

from clmr_tf.browse.layout import LayoutFile
from clmr_tf.inference.embeddings import FileEmbedding
from clmr_tf.inference.encoder import Tagger
from clmr_tf.inference.library import Library
from clmr_tf.inference.similarity import normalized
from clmr_tf.inference.tables import Manifest, TableSettings, write_part
from tests.clmr_tf.browse.served_page import served
from tests.clmr_tf.taught_library import DIM, SONG_SECONDS, SONGS_PER_FOLDER, listed, write_table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

NUM_SONGS = 3 * SONGS_PER_FOLDER
# The middle of a point that is drawn on the map, on the page: all of its neighbours have its colour.
POINT = """number => {
  const canvas = document.getElementById("map");
  const {width, height} = canvas, box = canvas.getBoundingClientRect();
  const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer);
  const found = [];
  for (let y = 8; y < height - 8; y++) for (let x = 8; x < width - 8; x++) {
    const own = pixels[y * width + x];
    if (!own || found.some(([a, b]) => Math.hypot(a - x, b - y) < 24)) continue;
    const isInside = d => pixels[y * width + x + d] === own && pixels[(y + d) * width + x] === own;
    if ([-5, 5].every(isInside)) found.push([x, y]);
  }
  const ratio = width / box.width;
  return [found.length, ...(found[number] ?? [0, 0]).map((place, axis) => place / ratio + [box.left, box.top][axis])];
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_table(folder / "music", folder / "table")
    return Library(folder / "table")


@pytest.fixture(scope="module")
def port(library):
    # The model's tag is high for songs of the folder harp.
    centre = library.means[SONGS_PER_FOLDER : 2 * SONGS_PER_FOLDER].mean(axis=0)
    tagger = Tagger(("plucked",), lambda vectors: 1 / (1 + np.exp(-(vectors @ centre / 40 - 5)[:, None])))
    with served(library.table, tagger) as port:
        yield port


@pytest.fixture
def page(browser, port):
    """The page, ready; fails if it warned of anything or asked another host."""
    page = browser.new_page(viewport={"width": 1300, "height": 850})
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    own = (f"http://127.0.0.1:{port}/", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else problems.append(request.url))
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("body[data-ready]")
    # The map no longer moves.
    until(page, "!document.getElementById('map-state').textContent")
    page.wait_for_timeout(1200)
    yield page
    page.close()
    assert problems == []


def until(page, expression: str, argument=None) -> None:
    """Waits until an expression is true; `wait_for_function` would need `eval`, which the page does not allow."""
    end = time.monotonic() + 60
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def names_in(page) -> list[str]:
    return page.locator("#list .row .name").all_inner_texts()


def folders_in(page) -> list[str]:
    return [title.split("/")[-2] for title in page.locator("#list .row").evaluate_all("rows => rows.map(r => r.title)")]


def current_time(page) -> float:
    return page.evaluate("document.getElementById('audio').currentTime")


def test_everything_is_shown_and_what_was_skipped_too(page, library):
    assert page.inner_text("h1") == f"table {NUM_SONGS} songs, 1 file skipped"
    assert page.inner_text("#list-count") == f"{NUM_SONGS} songs"
    page.click("#tab-skipped")
    assert "zz notes.mp3" in page.inner_text("#list .row .name")
    assert page.inner_text("#list .row .about") == "its content is text"


def test_a_point_of_the_map_has_a_name_and_plays(page, library):
    count, x, y = page.evaluate(POINT, 1)
    # Those of a folder may overlap.
    assert count >= 3
    page.mouse.move(x, y)
    shown = page.inner_text("#hover")
    page.mouse.click(x, y)
    until(page, "document.getElementById('audio').currentTime > 0.3")
    name, folder = page.inner_text("#now-name"), page.inner_text("#now-details").split(" · ")[1]
    assert shown == f"{name} · 0:12 · {folder}"
    row = page.evaluate("Number(document.getElementById('audio').src.match(/songs.(\\d+)/)[1])")
    assert library.paths[row].endswith(f"/{folder}/{name}.wav")


def test_the_cursor_moves_and_a_click_in_the_taggram_jumps(page):
    page.locator("#list .row", has_text="0:12 · harp").nth(2).click()
    until(page, "document.getElementById('audio').currentTime > 0.2")
    page.wait_for_selector("#taggram")
    assert re.fullmatch(
        r"Tags over time, most likely: plucked (0\.[5-9]\d|1\.00)", page.get_attribute("#taggram", "aria-label")
    )
    before = page.evaluate("document.getElementById('taggram').toDataURL()")
    page.wait_for_timeout(400)
    assert page.evaluate("document.getElementById('taggram').toDataURL()") != before
    box = page.locator("#taggram").bounding_box()
    # The names of the tags have 150 pixels.
    page.mouse.click(box["x"] + 150 + (box["width"] - 150) * 0.75, box["y"] + 5)
    until(page, f"Math.abs(document.getElementById('audio').currentTime - {0.75 * SONG_SECONDS}) < 1")
    assert page.inner_text("#time").endswith(" / 0:12")


def test_search_and_filters_narrow_list_and_map(page):
    page.fill("#search", "harp 3")
    until(page, "document.getElementById('list-count').textContent === '1 song'")
    assert folders_in(page) == ["harp"]
    page.click("#clear-filters")
    page.select_option("#filter-tag", "model:plucked")
    until(page, f"document.getElementById('list-count').textContent === '{SONGS_PER_FOLDER} songs'")
    assert set(folders_in(page)) == {"harp"}
    page.fill("#filter-shortest", "0.5")
    until(page, "document.getElementById('list-count').textContent === '0 songs'")
    # Only the tag's songs have their colour on the map.
    page.fill("#filter-shortest", "")
    until(page, f"document.getElementById('list-count').textContent === '{SONGS_PER_FOLDER} songs'")
    page.select_option("#colour", "folder")
    page.wait_for_timeout(300)
    colours = page.locator("#legend i").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    drawn = page.evaluate(
        """() => { const canvas = document.getElementById("map");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const found = new Set();
        for (let i = 0; i < data.length; i += 4)
          if (data[i + 3] === 255) found.add(`rgb(${data.slice(i, i + 3).join(", ")})`);
        return [...found]; }"""
    )
    texts = page.locator("#legend li").all_inner_texts()
    shown = dict(zip(texts, (colour in drawn for colour in colours), strict=True))
    assert shown == {"brass": False, "harp": True, "piano": False}


def test_similar_songs_say_why_and_play_there(page):
    page.locator("#list .row", has_text="0:12 · brass").nth(1).click()
    page.keyboard.press("l")
    page.wait_for_selector("#list .row .theirs")
    assert folders_in(page)[:4] == ["brass"] * 4
    about = page.locator("#list .row .about").nth(0).inner_text()
    there, here = re.fullmatch(r"0:(\d\d) sounds like 0:(\d\d) \(0\.\d\d\)", about).groups()
    page.locator("#list .row .theirs").nth(0).click()
    until(page, f"Math.abs(document.getElementById('audio').currentTime - {int(there) + 0.5}) < 1.5")
    assert page.inner_text("#now-name") == names_in(page)[0]
    page.locator("#list .row .mine").nth(0).click()
    until(page, f"Math.abs(document.getElementById('audio').currentTime - {int(here) + 0.5}) < 1.5")
    assert page.inner_text("#now-name") == "1"
    # Less like the first one that was found: it is no longer there.
    first = page.locator("#list .row").nth(0).get_attribute("title")
    page.locator("#list .row").nth(0).click()
    page.click("#less-like")
    until(page, f"!document.querySelector('#list .row[title=\"{first}\"]')")
    assert len(page.locator("#chips li").all()) == 2


def test_a_lasso_becomes_a_playlist(page, library, tmp_path):
    page.click("#lasso")
    box = page.locator("#map").bounding_box()
    left, top = box["x"] + 3, box["y"] + 60
    right, bottom = box["x"] + box["width"] / 2, box["y"] + box["height"] - 5
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    until(page, "document.getElementById('list-count').textContent.endsWith('in the lasso')")
    titles = page.locator("#list .row").evaluate_all("rows => rows.map(row => row.title)")
    assert 0 < len(titles) < NUM_SONGS
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "table-songs.m3u8"
    download.value.save_as(tmp_path / "list.m3u8")
    lines = (tmp_path / "list.m3u8").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#EXTM3U" and lines[2::2] == titles and set(titles) < set(library.paths)
    assert lines[1] == f"#EXTINF:12,{titles[0].split('/')[-1].removesuffix('.wav')}"


def test_teaching_ranks_the_library_and_is_undone(page, library):
    page.click("#tab-teach")
    page.fill("#teach-tag", "bright")
    page.keyboard.press("Enter")
    page.wait_for_selector("#list .row .yes")
    assert page.inner_text("#teach-summary") == "0 yes, 0 no. Precision: unknown before five marks."
    # What is searched for can be marked as well.
    page.fill("#search", "piano")
    until(page, f"document.getElementById('list-count').textContent === '{SONGS_PER_FOLDER} songs'")
    assert page.locator("#list .row .yes").count() == SONGS_PER_FOLDER
    page.fill("#search", "")
    until(page, "document.getElementById('list-count').textContent.startsWith('Mark a song')")
    for number in range(5):
        # As a person who knows the folders answers what is offered.
        offered = page.locator("#list .row").nth(0)
        title = offered.get_attribute("title")
        offered.locator(".yes" if "/piano/" in title else ".no").click()
        until(
            page,
            """([title, count]) => document.querySelector("#list .row").title !== title &&
            document.getElementById("teach-summary").textContent.match(/\\d+/g).slice(0, 2)
              .reduce((sum, one) => sum + Number(one), 0) === count""",
            [title, number + 1],
        )
    assert not page.inner_text("#teach-summary").endswith("unknown before five marks.")
    page.click("#show-ranking")
    until(page, f"document.querySelectorAll('#list .row').length > {SONGS_PER_FOLDER}")
    # All but the silent one.
    assert folders_in(page)[: SONGS_PER_FOLDER - 1] == ["piano"] * (SONGS_PER_FOLDER - 1)
    assert page.locator("#filter-tag option", has_text="bright (taught)").count() == 1
    page.locator("#list .row").nth(0).click()
    until(page, "document.getElementById('taggram').ariaLabel.includes('bright')")
    page.evaluate("document.getElementById('audio').pause()")
    page.click("#mark-moment-no")
    page.click("#show-marks")
    until(page, "document.getElementById('list-count').textContent === '6 marks'")
    page.click("#teach-undo")
    until(page, "document.getElementById('list-count').textContent === '5 marks'")
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#teach-remove")
    until(page, "document.getElementById('list-count').textContent === '0 marks'")


def test_marks_of_songs_that_left_the_table_are_taken_back(page, library):
    page.click("#tab-teach")
    page.fill("#teach-tag", "gone")
    page.keyboard.press("Enter")
    page.locator("#list .row .yes").nth(0).click()
    until(page, "document.getElementById('teach-summary').textContent.startsWith('1 yes, 0 no.')")
    file = library.table.with_name("table.tags.json")
    content = json.loads(file.read_text())
    content["tags"]["gone"]["changes"][0][0]["path"] = "/music/gone.wav"
    file.write_text(json.dumps(content))
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.click("#tab-teach")
    page.fill("#teach-tag", "gone")
    page.keyboard.press("Enter")
    page.click("#show-marks")
    until(page, "document.getElementById('list-count').textContent === '1 mark'")
    assert names_in(page) == ["/music/gone.wav"]
    assert page.inner_text("#list .row .about") == "yes; no longer in the table"
    page.locator("#list .row .back").click()
    until(page, "document.getElementById('list-count').textContent === '0 marks'")
    file.unlink()


def test_without_a_mouse(page):
    page.keyboard.press("/")
    page.keyboard.type("piano")
    until(page, f"document.getElementById('list-count').textContent === '{SONGS_PER_FOLDER} songs'")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    selected = page.get_attribute("#list", "aria-activedescendant")
    assert page.get_attribute(f"#{selected}", "aria-rowindex") == "2"
    page.keyboard.press("Enter")
    until(page, "document.getElementById('audio').currentTime > 0.1")
    assert page.inner_text("#now-name") == "1" and page.get_attribute("#play", "aria-label") == "Pause"
    page.keyboard.press(" ")
    until(page, "document.getElementById('audio').paused")
    before = current_time(page)
    page.keyboard.press("ArrowRight")
    until(page, "!document.getElementById('audio').seeking")
    assert current_time(page) == pytest.approx(before + 5, abs=0.2)
    # Every control has a name.
    unnamed = page.evaluate(
        """() => {
        const named = one => one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim();
        const all = [...document.querySelectorAll("button, input, select, canvas, [role=grid]")];
        return all.filter(one => one.offsetParent && !named(one)).map(one => one.id); }"""
    )
    assert unnamed == []
    # Nothing can be chosen from an empty list.
    page.fill("#search", "no such song")
    until(page, "document.getElementById('list-count').textContent === '0 songs'")
    page.locator("#list").focus()
    for key in ("Home", "Enter", "End", "Enter"):
        page.keyboard.press(key)
    page.fill("#search", "")


def test_the_buttons_of_the_selected_song_are_reached_with_tab(page):
    page.click("#tab-teach")
    page.fill("#teach-tag", "bright")
    page.keyboard.press("Enter")
    page.wait_for_selector("#list .row .yes")
    count = page.locator("#list .row").count()
    with_tab = "() => [...document.querySelectorAll('#list button')].filter(one => one.tabIndex >= 0).length"
    assert (count > 2, page.evaluate(with_tab)) == (True, 0)
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(with_tab) == 2
    page.keyboard.press("Tab")
    focused = "[document.activeElement.closest('.row').id, document.activeElement.className]"
    assert page.evaluate(focused) == ["item-1", "yes"]
    # What a screen reader is told.
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert sum(role == "row" for role, _ in roles) == count
    assert sum(role == "button" and name.startswith("yes: ") for role, name in roles) == count


def test_a_playing_song_asks_for_one_frame_at_a_time(page):
    page.evaluate(
        """() => { window.nativeFrame = window.requestAnimationFrame; window.numRequested = 0;
        window.requestAnimationFrame = (done) => { window.numRequested++; return window.nativeFrame(done); }; }"""
    )
    page.locator("#list .row").nth(0).click()
    until(page, "document.getElementById('audio').currentTime > 0.1")
    for seconds in (5, 2, 6, 1, 4, 3):
        page.evaluate(f"document.getElementById('audio').currentTime = {seconds}")
        until(page, "!document.getElementById('audio').seeking")
    requested = page.evaluate(
        """() => new Promise((done) => { const first = window.numRequested; let numFrames = 0;
        const next = () => (++numFrames < 30 ? window.nativeFrame(next) : done(window.numRequested - first));
        window.nativeFrame(next); })"""
    )
    assert 25 <= requested <= 45


def test_an_answer_about_another_tag_does_not_change_the_one_that_is_taught(page):
    page.click("#tab-teach")
    page.fill("#teach-tag", "first")
    page.keyboard.press("Enter")
    page.wait_for_selector("#list .row .yes")
    page.evaluate(
        """() => { const native = window.fetch;
        window.fetch = async (path, ...others) => {
          const answer = await native(path, ...others);
          if (path.includes("/api/mark")) await new Promise((done) => setTimeout(done, 1000));
          return answer;
        }; }"""
    )
    page.locator("#list .row .yes").nth(0).click(no_wait_after=True)
    page.fill("#teach-tag", "second")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('marking-tag').textContent === 'second?'")
    page.wait_for_timeout(2500)
    assert page.inner_text("#marking-tag") == "second?" and page.input_value("#teach-tag") == "second"
    assert page.inner_text("#teach-summary").startswith("0 yes, 0 no.")
    # The mark was made all the same.
    page.fill("#teach-tag", "first")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('teach-summary').textContent.startsWith('1 yes, 0 no.')")
    # Its colours and its filter go with it.
    page.select_option("#colour", "taught:first")
    page.select_option("#filter-tag", "taught:first")
    until(page, "!document.getElementById('filter-least-label').hidden")
    page.click("#tab-teach")
    page.click("#teach-undo")
    until(page, "document.getElementById('filter-least-label').hidden")
    assert (page.input_value("#colour"), page.input_value("#filter-tag")) == ("cluster", "")
    until(page, "document.querySelector('#legend').textContent.includes('cluster')")
    page.click("#tab-songs")
    until(page, f"document.getElementById('list-count').textContent === '{NUM_SONGS} songs'")


def test_a_song_that_is_gone_is_a_sentence_on_the_page(browser, tmp_path):
    write_table(tmp_path / "music", tmp_path / "table", num_songs=2)
    with served(tmp_path / "table") as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("body[data-ready]")
        (tmp_path / "music" / "brass" / "0.wav").unlink()
        page.locator("#list .row").nth(0).click()
        until(page, "document.getElementById('problem').textContent.includes('has it been moved')")
        # Everything else goes on.
        page.locator("#list .row").nth(1).click()
        until(page, "document.getElementById('audio').currentTime > 0.1")
        assert page.inner_text("#problem") == ""
        page.close()


def test_a_page_of_a_table_that_has_changed_marks_and_plays_nothing(browser, tmp_path):
    write_table(tmp_path / "music", tmp_path / "table", num_songs=2)
    with served(tmp_path / "table") as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("body[data-ready]")
        page.click("#tab-teach")
        page.fill("#teach-tag", "bright")
        page.keyboard.press("Enter")
        page.wait_for_selector("#list .row .yes")
    write_table(tmp_path / "other music", tmp_path / "other", num_songs=3)
    with served(tmp_path / "other", port=port):
        for action in ("#list .row .yes", "#list .row .name"):
            page.locator(action).nth(0).click()
            until(page, "document.getElementById('problem').textContent === 'The table has changed; reload the page.'")
            page.evaluate("document.getElementById('problem').textContent = ''")
        page.close()
    assert not (tmp_path / "other.tags.json").exists()


def test_twenty_thousand_songs(browser, tmp_path, monkeypatch):
    # t-SNE takes minutes.
    monkeypatch.setattr(LayoutFile, "complete", lambda self, layout: dataclasses.replace(layout, tsne=layout.pca))
    count = 20_000
    table = tmp_path / "table"
    song = tmp_path / "song.wav"
    song.write_bytes(b"")
    for name in ("songs", "windows"):
        (table / name).mkdir(parents=True)
    write_large_table(table, song, count)
    with served(table) as port:
        page = browser.new_page(viewport={"width": 1300, "height": 850})
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        assert "20,000 songs" in page.inner_text("h1")
        page.wait_for_timeout(1200)
        box = page.locator("#map").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        seconds = {}

        def search() -> None:
            page.fill("#search", "song 1999")
            until(page, "document.getElementById('list-count').textContent === '12 songs'")

        for name, action in {
            "zoom": lambda: page.mouse.wheel(0, -200),
            "hover": lambda: page.mouse.move(box["x"] + box["width"] / 2 + 5, box["y"] + box["height"] / 2),
            "search": search,
        }.items():
            start = time.perf_counter()
            action()
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            seconds[name] = time.perf_counter() - start
        # A tenth of it on an idle machine.
        assert max(seconds.values()) < 2, seconds
        assert page.locator("#list .row").count() == 12
        page.click("#clear-filters")
        until(page, "document.getElementById('list-count').textContent === '20,000 songs'")
        # With a filter, "like these" lists the nearest of those that pass it.
        page.locator("#list .row").nth(0).click()
        page.keyboard.press("l")
        until(page, "document.getElementById('list-count').textContent === '30 songs, the most similar first'")
        page.fill("#search", "song 1999")
        until(page, "document.getElementById('list-count').textContent === '12 songs, the most similar first'")
        rows = np.array([row for row in range(count) if "1999" in f"{row:05d}"])
        units = normalized(Library(table).means[[0, *rows]])
        nearest = rows[np.argsort(-(units[1:] @ units[0]))]
        assert names_in(page) == [f"song {row:05d}" for row in nearest]
        page.click("#clear-filters")
        page.click("#tab-songs")
        until(page, "document.getElementById('list-count').textContent === '20,000 songs'")
        # Only the rows in sight are in the document.
        page.keyboard.press("End")
        until(page, "document.querySelector('#list .row:last-child .name')?.textContent === 'song 19999'")
        assert page.locator("#list .row").count() < 60
        page.close()


def write_large_table(table, song, count) -> None:
    vectors = np.random.default_rng(0).normal(size=(count, 1, DIM)).astype(np.float32)
    found = listed(song)
    files = [type(found)(f"/music/song {row:05d}.mp3", 0, row) for row in range(count)]
    embedded = [FileEmbedding(file.path, vectors[row], np.zeros(1), 2.0, False) for row, file in enumerate(files)]
    settings = TableSettings("drawn", 22_050, 44_100, 44_100, DIM)
    Manifest(settings, (write_part(table, settings, files, embedded),)).write(table)
