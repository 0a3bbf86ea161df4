"""What the server of the library page answers, and what it refuses."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from clmr_tf.browse import __main__ as browse
from clmr_tf.browse.layout import LayoutFile
from clmr_tf.browse.similar_songs import near_duplicates, similar_songs
from clmr_tf.console import run_command
from clmr_tf.inference.library import Library
from clmr_tf.inference.similarity import normalized
from tests.clmr_tf.browse.served_page import served
from tests.clmr_tf.taught_library import SONGS_PER_FOLDER, write_table

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


def test_a_song_that_was_moved_replaced_or_linked_elsewhere_is_not_served(tmp_path):
    write_table(tmp_path / "music", tmp_path / "table", num_songs=2)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    songs = [tmp_path / "music" / name for name in ("brass/0.wav", "brass/1.wav", "harp/0.wav")]
    songs[0].unlink()
    songs[1].unlink()
    songs[1].symlink_to(secret)
    songs[2].write_bytes(songs[2].read_bytes() + b"more")
    with served(tmp_path / "table") as port:
        for row, words in ((0, "has it been moved?"), (1, "has changed since"), (2, "has changed since")):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", f"/api/songs/{row}/audio")
                answer = connection.getresponse()
                content = answer.read()
            assert answer.status == (404 if row == 0 else 409) and words in json.loads(content)["error"]


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


def test_a_large_change_is_refused(ask):
    body = {"name": "x", "marks": [{"row": 1, "answer": "yes", "note": "x" * 2**20}]}
    assert ask("/api/mark", "POST", body, Content_Type="application/json")[0] == 413


def test_similar_songs_come_with_the_windows_that_match_best(ask, written):
    library = Library(written / "table")
    units = normalized(library.means)
    status, _, content = ask("/api/similar?like=1,2&unlike=8&count=5")
    found = json.loads(content)
    query = (units[1] + units[2]) / 2 - units[8] / 2
    cosines = units @ query / np.linalg.norm(query)
    cosines[[1, 2, 8, len(units) - 1]] = -1
    assert status == 200 and [one["row"] for one in found] == np.argsort(-cosines)[:5].tolist()
    np.testing.assert_allclose([one["cosine"] for one in found], np.sort(cosines)[::-1][:5], atol=1e-5)
    # The last window of song 0 is like those of the folder harp.
    (own,) = (one for one in similar_songs(library, [8], [], 30) if one.row == 0)
    assert own.seconds == library.windows_of(0)[0][-1] and own.window_cosine > 0.5
    for bad in ("/api/similar?like=99", "/api/similar?like=x", "/api/similar?like=1&count=x"):
        assert ask(bad)[0] in (400, 404)


def test_near_duplicates_are_the_pairs_above_the_limit(written):
    library = Library(written / "table")
    library.means[4] = library.means[9] * 1.01
    centred = library.means - library.means.mean(axis=0)
    cosines = normalized(centred) @ normalized(centred).T
    silent = len(library.paths) - 1
    expected = [
        (first, second)
        for first in range(silent)
        for second in range(first + 1, silent)
        if cosines[first, second] >= 0.6
    ]
    found = near_duplicates(library, 0.6, 1000)
    assert sorted((pair.first, pair.second) for pair in found) == expected
    assert (found[0].first, found[0].second) == (4, 9) and found[0].cosine == pytest.approx(1, abs=1e-3)
    assert near_duplicates(library, 0.6, 2) == found[:2]


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
    library.means = library.means * np.array([[2.0] + [1.0] * 511], np.float32)
    assert LayoutFile(library).first().tsne is None
    (tmp_path / "table.map.npz").write_bytes(b"damaged")
    assert LayoutFile(library).first().tsne is None


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
        assert (process.returncode, error) == (0, "")
    finally:
        process.kill()
        process.communicate()
