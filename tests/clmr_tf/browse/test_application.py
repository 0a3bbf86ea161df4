"""What the server of the library page answers, and what it refuses."""

import contextlib
import dataclasses
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from clmr_tf.browse import __main__ as browse
from clmr_tf.browse.application import Browser
from clmr_tf.browse.layout import LayoutFile
from clmr_tf.browse.similar_songs import best_matches, similarities
from clmr_tf.console import run_command
from clmr_tf.inference.embeddings import FileEmbedding
from clmr_tf.inference.library import Library
from clmr_tf.inference.tables import Manifest, TableSettings, read_manifest, write_npz, write_part
from tests.clmr_tf.browse.served_page import served
from tests.clmr_tf.taught_library import DIM, SONGS_PER_FOLDER, listed, write_table

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with music and its table."""
    folder = tmp_path_factory.mktemp("browsed")
    write_table(folder / "music", folder / "table")
    return folder


@pytest.fixture(scope="module")
def port(written):
    with served(written / "table") as port:
        yield port


@pytest.fixture
def ask(port):
    """Sends a request exactly as it is written; returns status, headers and content."""

    def ask(path, method="GET", body=None, host=None, **headers):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.putrequest(method, path, skip_host=True)
            connection.putheader("Host", host or f"127.0.0.1:{port}")
            content = None if body is None else json.dumps(body).encode()
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            if content is not None:
                connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    return ask


def test_requests_for_another_host_are_refused(ask):
    for host in ("localhost", "127.0.0.1"):
        assert ask("/", host=host)[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", "0.0.0.0", "[::1]"):
        status, _, content = ask("/api/songs", host=host)
        assert status == 400 and b"brass" not in content


def test_the_page_may_load_nothing_from_elsewhere_and_no_other_page_may_load_it(ask):
    for path in ("/", "/page.js", "/api/songs", "/api/songs/0/audio", "/nothing"):
        headers = ask(path)[1]
        assert headers["content-security-policy"] == "default-src 'self'; frame-ancestors 'none'"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    for file in (ROOT / "clmr_tf" / "browse" / "page").iterdir():
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text()) == []


def test_audio_is_served_in_ranges(ask, written):
    content = (written / "music" / "brass" / "1.wav").read_bytes()
    status, headers, received = ask("/api/songs/1/audio")
    assert (status, received, headers["accept-ranges"]) == (200, content, "bytes")
    status, headers, received = ask("/api/songs/1/audio", Range="bytes=1000-1999")
    assert (status, received) == (206, content[1000:2000])
    assert headers["content-range"] == f"bytes 1000-1999/{len(content)}"
    assert ask("/api/songs/1/audio", Range="bytes=-10")[2] == content[-10:]
    assert ask("/api/songs/1/audio", Range=f"bytes={len(content)}-")[0] == 416


def test_only_audio_and_video_keep_their_types(tmp_path):
    names = ("a.html", "b.svg", "c.mp3", "d.mp4", "e")
    for name in names:
        (tmp_path / name).write_bytes(b"audio")
    files = [listed(tmp_path / name) for name in names]
    vectors = np.random.default_rng(0).normal(size=(len(names), 1, DIM)).astype(np.float32)
    embedded = [FileEmbedding(file.path, vectors[row], np.zeros(1), 2.0, False) for row, file in enumerate(files)]
    settings = TableSettings("drawn", 22_050, 44_100, 44_100, DIM)
    for name in ("songs", "windows"):
        (tmp_path / "table" / name).mkdir(parents=True)
    Manifest(settings, (write_part(tmp_path / "table", settings, files, embedded),)).write(tmp_path / "table")
    types = []
    with served(tmp_path / "table") as port:
        for row in range(len(names)):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", f"/api/songs/{row}/audio")
                answer = connection.getresponse()
                assert answer.read() == b"audio"
                types.append(answer.headers["content-type"])
    assert types == [*["application/octet-stream"] * 2, "audio/mpeg", "video/mp4", "application/octet-stream"]


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/../application.py",
        "/api/songs/..%2f..%2fetc%2fpasswd/audio",
        "/api/songs/99/audio",
        "/api/songs/-1/audio",
    ],
)
def test_nothing_but_the_page_and_the_songs_is_served(ask, path):
    status, _, content = ask(path)
    assert status == 404 and b"root:" not in content and b"import" not in content


@pytest.mark.parametrize("name", ["table", "table.npz"])
def test_a_song_that_was_moved_replaced_or_linked_elsewhere_is_not_served(tmp_path, name):
    write_table(tmp_path / "music", tmp_path / "table", num_songs=2)
    write_npz(tmp_path / "table.npz", tmp_path / "table", read_manifest(tmp_path / "table"))
    # The same song behind a link.
    linked = tmp_path / "music" / "harp" / "1.wav"
    content_of_linked = linked.read_bytes()
    linked.rename(tmp_path / "elsewhere.wav")
    linked.symlink_to(tmp_path / "elsewhere.wav")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    songs = [tmp_path / "music" / name for name in ("brass/0.wav", "brass/1.wav", "harp/0.wav")]
    songs[0].unlink()
    songs[1].unlink()
    songs[1].symlink_to(secret)
    songs[2].write_bytes(songs[2].read_bytes() + b"more")
    with served(tmp_path / name) as port:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/api/songs/3/audio")
            assert connection.getresponse().read() == content_of_linked
        for row, words in ((0, "has it been moved,"), (1, "has changed since"), (2, "has changed since")):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", f"/api/songs/{row}/audio")
                answer = connection.getresponse()
                content = answer.read()
            assert answer.status == (404 if row == 0 else 409) and words in json.loads(content)["error"]


def test_names_that_are_not_utf_8_are_shown_and_say_why_they_do_not_play(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    write_table(folder / "music", folder / os.fsdecode(b"table\xfe"), num_songs=1)
    with served(folder / os.fsdecode(b"table\xfe")) as port:

        def get(path):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())

        status, songs = get("/api/songs")
        assert status == 200 and songs["table"].startswith("table\\xfe") and len(songs["paths"]) == 3
        assert all(r"/\xff/music/" in path for path in songs["paths"])
        assert len(get("/api/matches?like=0&rows=1,2")[1]) == 2
        status, answer = get("/api/songs/0/audio")
        assert status == 404 and answer["error"].endswith("is its name not UTF-8?")


def test_another_page_cannot_change_tags(ask, written):
    body = {"name": "bright", "marks": [{"row": 1, "answer": "yes"}]}
    # What a form of any page can send without being asked.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask("/api/mark", "POST", body, Content_Type=kind)[0] == 415
    assert ask("/api/mark")[0] == 404
    assert ask("/api/mark", "OPTIONS", Origin="http://evil.example")[1].get("access-control-allow-origin") is None
    assert not (written / "table.tags.json").exists()


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"name": "x"},
        {"name": "x", "marks": [{}]},
        {"name": "x", "marks": [{"row": "1", "answer": "yes"}]},
        {"name": "x", "marks": [{"row": 99, "answer": "yes"}]},
        {"name": "x", "marks": [{"path": "/etc/passwd", "answer": "yes"}]},
        {"name": "x", "marks": [{"path": "\0", "answer": "unmarked"}]},
        {"name": "x", "marks": [{"path": 7, "answer": "unmarked"}]},
        {"name": "x", "marks": [{"row": 1, "answer": "maybe"}]},
        {"name": "x", "marks": [{"row": 1, "answer": "yes", "seconds": "1"}]},
        {"name": "x", "marks": [{"row": 1, "answer": "yes", "seconds": 1e9}]},
        {"name": 7, "marks": [{"row": 1, "answer": "yes"}]},
        {"name": "", "marks": [{"row": 1, "answer": "yes"}]},
    ],
)
def test_odd_changes_are_refused_in_a_sentence(ask, written, body):
    status, _, content = ask("/api/mark", "POST", body, Content_Type="application/json")
    assert status in (400, 404) and json.loads(content)["error"].endswith(".")
    assert not (written / "table.tags.json").exists()


def test_rows_of_another_table_are_refused(ask, written):
    key = json.loads(ask("/api/songs")[2])["key"]
    assert ask(f"/api/songs/1/taggram?table={key}")[0] == 200
    gets = ("layout", "tags", "tag?name=x", "songs/1/taggram", "songs/1/audio", "similarities?like=1")
    for path in (*gets, "matches?like=1&rows=2", "duplicates", "offers?name=x"):
        status, _, content = ask(f"/api/{path}{'&' if '?' in path else '?'}table=other")
        assert (status, json.loads(content)["error"]) == (409, "The table has changed; reload the page.")
    for path in ("mark", "undo", "remove"):
        body = {"name": "x", "marks": [{"row": 1, "answer": "yes"}]}
        assert ask(f"/api/{path}?table=other", "POST", body, Content_Type="application/json")[0] == 409
    assert not (written / "table.tags.json").exists()


@pytest.mark.parametrize(
    "path",
    ["songs/{}/audio", "songs/{}/taggram", "similarities?like={}", "matches?like=1&rows={}", "offers?name=x&count={}"],
)
def test_numbers_of_any_length_are_answered_in_a_sentence(ask, path):
    status, _, content = ask(f"/api/{path.format('9' * 5000)}")
    assert status in (400, 404) and json.loads(content)["error"].endswith(".")


def test_json_of_any_depth_is_answered_in_a_sentence(port):
    long_number = json.dumps({"name": "x", "marks": [{"row": 1, "answer": "yes", "seconds": 10**400}]})
    for content in ("[" * 200_000, long_number):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("POST", "/api/mark", content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 400 and json.loads(answer.read())["error"].endswith(".")


def test_a_large_change_is_refused(ask):
    body = {"name": "x", "marks": [{"row": 1, "answer": "yes", "note": "x" * 2**20}]}
    assert ask("/api/mark", "POST", body, Content_Type="application/json")[0] == 413


def test_similar_songs_are_ranked_and_explained(ask, written):
    library = Library(written / "table")
    status, _, content = ask("/api/similarities?like=1,2&unlike=8")
    assert status == 200
    np.testing.assert_array_equal(np.frombuffer(content, "<f4"), similarities(library, [1, 2], [8]))
    status, _, content = ask("/api/matches?like=1,2&rows=7,3")
    expected = [dataclasses.asdict(one) for one in best_matches(library, [1, 2], [7, 3])]
    assert status == 200 and json.loads(content) == expected
    for bad in (
        "similarities?like=99",
        "similarities?like=x",
        "similarities",
        "matches?rows=1",
        "matches?like=1&rows=x",
    ):
        status, _, content = ask(f"/api/{bad}")
        assert status in (400, 404) and json.loads(content)["error"].endswith(".")


def test_duplicates_say_how_many_there_are(ask):
    answer = json.loads(ask("/api/duplicates")[2])
    assert answer == {"pairs": [], "num_pairs": 0}


def test_taught_tags_change_probabilities_taggram_and_offers_at_once(tmp_path):
    write_table(tmp_path / "music", tmp_path / "table")
    library = Library(tmp_path / "table")
    with served(tmp_path / "table") as port:

        def request(method, path, body=None):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                headers = {"Content-Type": "application/json"}
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                return connection.getresponse().read()

        marks = [{"row": 1, "answer": "yes", "seconds": None}, {"row": 8, "answer": "no", "seconds": 3.0}]
        tag = json.loads(request("POST", "/api/mark", {"name": "bright", "marks": marks}))
        assert tag["has_head"] and tag["num_changes"] == 1 and len(tag["marks"]) == 2
        head = json.loads((tmp_path / "table.tags.json").read_text())["tags"]["bright"]["head"]
        values = np.frombuffer(request("GET", "/api/tag?name=bright&taught=true"), "<f4")
        np.testing.assert_allclose(values, expit(library.means @ head["weights"] + head["bias"]), atol=1e-5)
        taggram = json.loads(request("GET", "/api/songs/3/taggram"))
        times_seconds, vectors = library.windows_of(3)
        assert taggram["names"] == ["bright"] and taggram["times_seconds"] == times_seconds.tolist()
        expected = expit(vectors @ head["weights"] + head["bias"])
        np.testing.assert_allclose(taggram["probabilities"], [expected], atol=1e-4)
        # A song that has left the table.
        file = tmp_path / "table.tags.json"
        gone = library.paths[8].replace("harp", "gone")
        file.write_text(file.read_text().replace(library.paths[8], gone))
        mark = {"path": gone, "answer": "unmarked", "seconds": 3.0}
        tag = json.loads(request("POST", "/api/mark", {"name": "bright", "marks": [mark]}))
        assert [one["path"] for one in tag["marks"]] == [library.paths[1]]
        json.loads(request("POST", "/api/undo", {"name": "bright"}))
        file.write_text(file.read_text().replace(gone, library.paths[8]))
        assert not {1, 8} & set(json.loads(request("GET", "/api/offers?name=bright&count=100")))
        assert json.loads(request("POST", "/api/undo", {"name": "bright"}))["num_changes"] == 0
        assert json.loads(request("GET", "/api/tags")) == []


def test_the_map_is_computed_once_and_again_for_other_songs(written, tmp_path, monkeypatch):
    library = Library(written / "table")
    library.table = tmp_path / "table"
    first = LayoutFile(library).first()
    assert first.tsne is None and first.pca.shape == (len(library.paths), 2)
    # Songs of a folder are nearer to each other than to others, on both maps.
    complete = LayoutFile(library).complete(first)
    for positions in (complete.pca, complete.tsne):
        folders = np.arange(len(positions)) // SONGS_PER_FOLDER
        distances = np.linalg.norm(positions[:, None] - positions, axis=2) + 1e9 * np.eye(len(positions))
        assert np.mean(folders[distances.argmin(axis=1)] == folders) > 0.9
    kept = LayoutFile(library).first()
    np.testing.assert_array_equal(kept.tsne, complete.tsne)
    library.units = library.units * np.array([[2.0] + [1.0] * 511], np.float32)
    assert LayoutFile(library).first().tsne is None
    (tmp_path / "table.map.npz").write_bytes(b"damaged")
    assert LayoutFile(library).first().tsne is None


@pytest.mark.parametrize("count", [1, 12])
def test_songs_without_any_spread_have_a_map(written, tmp_path, count):
    library = Library(written / "table")
    library.table = tmp_path / "table"
    library.paths, library.units = library.paths[:count], np.repeat(library.units[:1], count, axis=0)
    layout = LayoutFile(library).complete(LayoutFile(library).first())
    for positions in (layout.pca, layout.tsne):
        np.testing.assert_array_equal(positions, np.zeros((count, 2), np.float32))
    np.testing.assert_array_equal(layout.cluster, np.zeros(count))


def test_a_map_that_cannot_be_computed_shows_principal_components(written, tmp_path, monkeypatch, caplog):
    def fail(self, layout):
        raise ValueError("NaN")

    monkeypatch.setattr(LayoutFile, "complete", fail)
    library = Library(written / "table")
    library.table = tmp_path / "table"
    browser = Browser(library)
    layout = browser.complete_layout()
    np.testing.assert_array_equal(layout.tsne, layout.pca)
    assert caplog.messages == ["t-SNE failed (NaN), so the map shows principal components."]


def test_a_port_in_use_is_one_sentence(written, port, capsys):
    assert run_command(browse.main, [str(written / "table"), "--port", str(port), "--no-open"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: Port {port} of this machine cannot be used") and error.count("\n") == 1


def test_the_command_listens_on_this_machine_only_and_ends_when_it_is_interrupted(written):
    command = [sys.executable, "-m", "clmr_tf.browse", str(written / "table"), "--port", "0", "--no-open"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])
        # At once, as a browser does.
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
            connection.request("GET", "/api/songs")
            assert len(json.loads(connection.getresponse().read())["paths"]) == 3 * SONGS_PER_FOLDER
        listening = Path(f"/proc/{process.pid}/net/tcp").read_text()
        # Little-endian, as the kernel shows it.
        assert f" 0100007F:{port:04X} 00000000:0000 0A " in listening
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        # The table is of no model that is here.
        assert process.returncode == 0 and error.count("\n") == 1 and "give it with --model for its tags" in error
    finally:
        process.kill()
        process.communicate()
