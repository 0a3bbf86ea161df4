"""The web page of a model, in a real browser: its numbers, its controls, and what it says about bad input."""

import functools
import http.server
import json
import os
import shutil
import threading
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clmr_tf.console import run_command
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export import __main__ as command
from clmr_tf.export.__main__ import ExportConfig
from clmr_tf.export.converter import FoldedNetwork, convert
from clmr_tf.export.keras_model import weights_hash
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.export.runtime_formats import version_of
from clmr_tf.export.web import MAX_SONGS, add_web_page, read_web_songs
from clmr_tf.inference.encoder import Encoder, load_encoder
from tests.clmr_tf.exported import TAGS, embedding_of_music, model, tags_of
from tests.clmr_tf.probed import CLIP, write_tiny_model
from tests.synthetic import melody

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
RATE_HZ = 22_050
SONG_NAMES = [f"melody {number}" for number in range(3)]

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = playwright.expect
pytestmark = [
    pytest.mark.starts_first,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
    pytest.mark.skipif(version_of("ai-edge-litert") is None, reason="needs ai-edge-litert"),
]


def write_table(path: Path, *, model_hash: str | None = None, num_songs: int = 3) -> Path:
    """Writes the arrays of a table that matter here: the clips of `music`, the last of which is said to be silent."""
    metadata = {"model_hash": model_hash or weights_hash(model()), "hop_num_samples": CLIP}
    rows = np.arange(num_songs) % 3
    np.savez(
        path,
        paths=np.array([f"/home/me/music/album/{SONG_NAMES[row]}.mp3" for row in rows]),
        means=embedding_of_music()[rows],
        is_silent=rows == 2,
        metadata=np.array(json.dumps(metadata)),
    )
    return path


@pytest.fixture(scope="module")
def sites(exported_folder, tmp_path_factory) -> Path:
    """A folder with pages: of a model with tags, from its own host and from a CDN, and of a model without tags."""
    folder = tmp_path_factory.mktemp("sites")
    with_tags = Path(shutil.copytree(exported_folder, folder / "models" / "tags"))
    # 8-bit integers are the same model.
    table = write_table(folder / "table.npz", model_hash=f"{weights_hash(model())}-int8")
    try:
        assert run_command(command.main, ["--model", str(with_tags), "--web", "--web-table", str(table)]) == 0
    except ClmrError as error:
        pytest.skip(f"LiteRT.js is needed: {error}")
    shutil.copytree(with_tags / "web", folder / "tags")
    add_web_page(with_tags, "cdn")
    shutil.move(with_tags / "web", folder / "cdn")
    without_tags = write_tiny_model(model(), folder / "models" / "plain")
    (without_tags / "model.tflite").write_bytes(convert(FoldedNetwork(model()).function(), "fp32"))
    add_web_page(without_tags, "bundled", read_web_songs(table))
    shutil.move(without_tags / "web", folder / "plain")
    return folder


@pytest.fixture(scope="module")
def host(sites) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=sites)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    devices = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *devices])
        yield browser
        browser.close()


class Visit:
    """A page in the browser, with the requests that it made."""

    def __init__(self, page, url: str) -> None:
        self.page, self.urls, self.violations = page, [], []
        page.context.on("request", lambda request: self.urls.append(request.url))
        page.on("console", lambda message: self._note(message.text))
        page.goto(url)

    def _note(self, text: str) -> None:
        if "Content Security Policy" in text:
            self.violations.append(text)

    def text(self, name: str) -> str:
        return self.page.inner_text(f"#{name}")

    def ready(self) -> "Visit":
        expect(self.page.locator("#open")).to_be_visible(timeout=60_000)
        return self

    def problem(self) -> str:
        expect(self.page.locator("#problem")).not_to_be_empty(timeout=60_000)
        return self.text("problem")

    def choose(self, file: Path) -> None:
        self.page.set_input_files("#file", file)

    def finished(self, name: str) -> "Visit":
        expect(self.page.locator("#song-name")).to_have_text(name, timeout=60_000)
        expect(self.page.locator("#save")).to_be_visible(timeout=60_000)
        return self

    def saved(self) -> dict:
        with self.page.expect_download() as download:
            self.page.click("#save")
        return json.loads(download.value.path().read_text())

    def drop(self, content: bytes, name: str) -> None:
        """Drops a file on the page."""
        make = """([bytes, name]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name));
            return data;
        }"""
        data = self.page.evaluate_handle(make, [list(content), name])
        self.page.dispatch_event("h1", "drop", {"dataTransfer": data})


@pytest.fixture
def visit(browser, host) -> Iterator[Callable[..., Visit]]:
    contexts = []

    def open_page(site: str, prepare: Callable = lambda page: None) -> Visit:
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        prepare(page)
        return Visit(page, f"{host}/{site}/")

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def encoder(exported_folder) -> Encoder:
    return load_encoder(exported_folder)


@pytest.fixture(scope="module")
def song(tmp_path_factory) -> Path:
    """A song of four windows and a remainder, as float samples at the rate of the model."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    soundfile.write(path, melody(3, 4 * CLIP + 500), RATE_HZ, subtype="FLOAT")
    return path


def least_cosine(received: list, expected: np.ndarray) -> float:
    received = np.array(received)
    assert received.shape == expected.shape
    norms = np.linalg.norm(received, axis=1) * np.linalg.norm(expected, axis=1)
    return float(np.min(np.sum(received * expected, axis=1) / norms))


def test_the_same_samples_give_pythons_numbers_and_nothing_leaves_the_host(visit, host, song, encoder):
    visited = visit("tags").ready()
    assert "Golden clips: as exported" in visited.text("check") and "Runs on wasm" in visited.text("check")
    assert not visited.page.evaluate("crossOriginIsolated")
    visited.drop(song.read_bytes(), "song.wav")
    received, expected = visited.finished("song.wav").saved(), encoder.embed(song)
    assert received["times_seconds"] == expected.times_seconds.tolist() and len(expected.vectors) == 4
    assert least_cosine(received["vectors"], expected.vectors) >= 0.9999
    np.testing.assert_allclose(received["vectors"], expected.vectors, atol=1e-3 * expected.vectors.max())
    np.testing.assert_allclose(received["embedding"], np.mean(received["vectors"], axis=0), rtol=1e-6)
    tags = tags_of(expected.vectors)
    assert tags.std() > 0.1
    np.testing.assert_allclose(received["tags_of_windows"], tags, atol=1e-3)
    # What is shown: the tags by their means, and the songs of the table that are not silent, without their folders.
    means = tags.mean(axis=0)
    best = [f"{TAGS[column]}\n{means[column]:.3f}" for column in np.argsort(-means)]
    assert visited.text("tags").split("\n\n") == best or visited.text("tags") == "\n".join(best)
    units = [vector / np.linalg.norm(vector) for vector in (*embedding_of_music()[:2], expected.vectors.mean(axis=0))]
    cosines = {name: float(unit @ units[2]) for name, unit in zip(SONG_NAMES[:2], units[:2], strict=True)}
    nearest = sorted(cosines, key=cosines.get, reverse=True)
    assert visited.text("neighbours").split("\n")[::2] == nearest
    shown = [float(cosine) for cosine in visited.text("neighbours").split("\n")[1::2]]
    np.testing.assert_allclose(shown, [cosines[name] for name in nearest], atol=1e-4)
    assert {url.removeprefix("blob:").startswith(host) for url in visited.urls} == {True}
    assert visited.violations == []


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels"), [("song.mp3", 44_100, 2), ("song.flac", 48_000, 1), ("song.ogg", 32_000, 2)]
)
def test_the_resampling_of_the_browser_is_good_enough(visit, tmp_path, encoder, name, rate_hz, channels):
    samples = [melody(seed, 9 * rate_hz, rate_hz) for seed in (3, 8)[:channels]]
    soundfile.write(tmp_path / name, np.stack(samples, axis=1), rate_hz)
    visited = visit("tags").ready()
    visited.choose(tmp_path / name)
    received = visited.finished(name).saved()
    assert least_cosine(received["vectors"], encoder.embed(tmp_path / name).vectors) >= 0.999


def test_surround_sound_and_short_songs_are_treated_as_in_python(visit, tmp_path, encoder):
    samples = np.stack([melody(seed, CLIP // 2) for seed in range(6)], axis=1)
    soundfile.write(tmp_path / "surround.wav", samples, RATE_HZ, subtype="FLOAT", format="WAVEX")
    visited = visit("tags").ready()
    visited.choose(tmp_path / "surround.wav")
    received = visited.finished("surround.wav").saved()
    assert "shorter than a window" in visited.text("song-details")
    assert least_cosine(received["vectors"], encoder.embed(samples, RATE_HZ).vectors) >= 0.9999
    soundfile.write(tmp_path / "silence.wav", np.zeros(2 * CLIP), RATE_HZ)
    visited.choose(tmp_path / "silence.wav")
    visited.finished("silence.wav")
    assert "silent" in visited.text("song-details")


def test_clicks_and_keys_jump_and_the_cursor_moves_with_the_sound(visit, song):
    visited = visit("tags").ready()
    visited.choose(song)
    page = visited.finished("song.wav").page
    duration = (4 * CLIP + 500) / RATE_HZ
    area = page.locator("#area")
    box = area.bounding_box()
    read_position = """() => {
        const [player, area, cursor] = ["player", "area", "cursor"].map((name) => document.getElementById(name));
        const place = (cursor.offsetLeft + cursor.offsetWidth / 2) / area.clientWidth;
        return [player.currentTime, Number(area.getAttribute("aria-valuenow")), place];
    }"""

    def position() -> float:
        played, announced, place = page.evaluate(read_position)
        # The cursor moves with the frames of the browser.
        assert abs(announced - played) < 0.5 and abs(place * duration - played) < 0.5
        return played

    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 10)
    assert position() == pytest.approx(0.25 * duration, abs=0.05)
    area.focus()
    page.keyboard.press("ArrowRight")
    assert position() == pytest.approx(0.25 * duration + CLIP / RATE_HZ, abs=0.05)
    page.keyboard.press("End")
    assert position() == pytest.approx(duration, abs=0.05)
    page.keyboard.press("Home")
    assert position() == 0
    assert area.get_attribute("aria-valuetext").startswith("0:00, ")
    page.keyboard.press("Space")
    page.wait_for_timeout(700)
    first = position()
    page.wait_for_timeout(700)
    assert 0 < first < position()
    page.keyboard.press("Space")
    assert page.evaluate("document.getElementById('player').paused")


def test_bad_files_are_refused_with_a_sentence_and_the_song_stays(visit, song, tmp_path):
    visited = visit("tags").ready()
    visited.choose(song)
    visited.finished("song.wav")
    (tmp_path / "notes.txt").write_text("not music")
    visited.choose(tmp_path / "notes.txt")
    assert visited.problem() == (
        "notes.txt cannot be decoded: it is not audio, is damaged, or has a format that this browser does not know."
    )
    long = tmp_path / "long.wav"
    with wave.open(str(long), "wb") as file:
        file.setparams((1, 1, 4000, 5 * 3600 * 4000, "NONE", ""))
        file.writeframes(b"")
    # Sparse: 72 MB of silence.
    os.truncate(long, 44 + 5 * 3600 * 4000)
    visited.choose(long)
    expect(visited.page.locator("#problem")).to_contain_text("long.wav is 5:00:00 long")
    assert "up to 20 minutes; use `python -m clmr_tf.tag`" in visited.problem()
    visited.finished("song.wav")
    visited.choose(song)
    expect(visited.page.locator("#problem")).to_be_empty()
    visited.finished("song.wav")


def changed_copy(sites: Path, name: str, file: str, change: Callable[[bytes], bytes]) -> str:
    """Copies a page, with a changed file, and returns the name of the copy."""
    copy = Path(shutil.copytree(sites / "tags", sites / name, copy_function=os.link))
    content = (copy / file).read_bytes()
    (copy / file).unlink()
    (copy / file).write_bytes(change(content))
    return name


def test_damaged_files_and_other_numbers_are_reported(visit, sites):
    for file in ("model.tflite", "runtime/dist/index.js"):
        site = changed_copy(sites, f"damaged-{Path(file).stem}", file, lambda content: content[:-1])
        visited = visit(site)
        assert visited.problem().startswith(f"{file} cannot be fetched, or is not the file of the export;")
        assert not visited.page.is_visible("#open")
    visited = visit(changed_copy(sites, "damaged-songs", "songs.bin", lambda content: content[:-1])).ready()
    assert visited.problem().startswith("songs.bin cannot be fetched, or is not the file of the export; nearest songs")
    # No number is exactly that of TensorFlow.
    limit, zero = b'"max_error": 0.001', b'"max_error": 0'
    site = changed_copy(sites, "strict", "model.json", lambda content: content.replace(limit, zero))
    visited = visit(site)
    assert visited.problem().startswith("The golden clips give other numbers here than when the model was exported")
    assert "not as exported" in visited.text("check") and not visited.page.is_visible("#open")


def test_a_browser_without_simd_is_told(visit):
    visited = visit("tags", lambda page: page.add_init_script("WebAssembly.validate = () => false"))
    assert visited.problem() == (
        "This browser lacks WebAssembly with SIMD, so it cannot run the model; use a newer one."
    )


def test_no_other_host_can_be_reached_from_page_or_worker(visit):
    visited = visit("tags").ready()
    fetch = "fetch('https://example.org/').then(() => 'reached', String)"
    assert "Failed to fetch" in visited.page.evaluate(fetch)
    (worker,) = visited.page.workers
    assert "Failed to fetch" in worker.evaluate(fetch)
    assert len(visited.violations) == 2 and not any("example.org" in url for url in visited.urls)


def test_the_runtime_from_a_cdn(visit, sites, host, song, encoder):
    assert not (sites / "cdn" / "runtime").exists()
    prefix = "https://cdn.jsdelivr.net/npm/@litertjs/core@2.5.3/"

    def answer(route):
        file = sites / "tags" / "runtime" / route.request.url.removeprefix(prefix)
        route.fulfill(body=file.read_bytes(), headers={"Access-Control-Allow-Origin": "*"})

    visited = visit("cdn", lambda page: page.context.route(f"{prefix}**", answer)).ready()
    visited.choose(song)
    received = visited.finished("song.wav").saved()
    assert least_cosine(received["vectors"], encoder.embed(song).vectors) >= 0.9999
    elsewhere = [url for url in visited.urls if host not in url]
    assert len(elsewhere) == 3 and all(url.startswith(prefix) for url in elsewhere)
    assert not visited.page.is_visible("#nearest")


def test_a_model_without_tags_gives_embeddings_and_nearest_songs(visit, song, encoder):
    visited = visit("plain").ready()
    visited.choose(song)
    received = visited.finished("song.wav").saved()
    assert least_cosine(received["vectors"], encoder.embed(song).vectors) >= 0.9999
    assert "tags" not in received and len(visited.text("neighbours").split("\n")) == 4
    assert not visited.page.is_visible("#taggram") and not visited.page.is_visible("#top")


def test_a_recording_from_the_microphone_is_a_song(visit):
    visited = visit("tags").ready()
    visited.page.click("#record")
    expect(visited.page.locator("#record")).to_have_text("Stop recording")
    visited.page.wait_for_timeout(4000)
    visited.page.click("#record")
    visited.finished("Recording")
    assert len(visited.saved()["vectors"]) == 1
    # Its file does not say how long it is.
    area = visited.page.locator("#area").bounding_box()
    visited.page.mouse.click(area["x"] + area["width"] / 2, area["y"] + 5)
    assert 1.5 < visited.page.evaluate("document.getElementById('player').currentTime") < 4


def test_the_page_is_described(sites):
    described = read_manifest(sites / "models" / "tags")["web"]
    assert described["source"] == "cdn" and described["num_songs"] == 0
    assert described["num_bytes"] == sum(path.stat().st_size for path in (sites / "cdn").iterdir())
    assert described["largest_error"] <= 1e-4 and described["checked_with"].startswith("ai-edge-litert")
    card = (sites / "models" / "plain" / "README.md").read_text(encoding="utf-8")
    assert "python -m http.server --directory web" in card
    assert b"/home/me" not in (sites / "tags" / "model.json").read_bytes()
    assert "Apache License" in (sites / "tags" / "LICENSE").read_text(encoding="utf-8")


def test_tables_that_do_not_fit_are_refused(folder, tmp_path):
    other = read_web_songs(write_table(tmp_path / "other.npz", model_hash="0"))
    with pytest.raises(UsageError, match="--web-table was made with another model"):
        add_web_page(folder, "bundled", other)
    with pytest.raises(UsageError, match=rf"has {MAX_SONGS + 1:,} songs .* takes 1 to {MAX_SONGS:,}"):
        read_web_songs(write_table(tmp_path / "large.npz", num_songs=(MAX_SONGS + 1) * 3 // 2))
    (tmp_path / "damaged.npz").write_bytes(b"not a table")
    with pytest.raises(UsageError, match=r"damaged\.npz cannot be read; give --web-table"):
        read_web_songs(tmp_path / "damaged.npz")
    with pytest.raises(UsageError, match="--web-table needs --web"):
        ExportConfig(model=folder, web_table=tmp_path / "other.npz")
    assert not (folder / "web").exists() and not list(folder.glob(".web*"))
