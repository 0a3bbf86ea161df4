import fcntl
import hashlib

import numpy as np
import pytest

from clmr_tf.errors import ClmrError, UsageError
from pipelines.preparation import downloads
from pipelines.preparation.downloads import RemoteFile, fetch, has_checksum
from tests.pipelines.file_server import running_file_server

# Larger than the blocks that are written and than the buffers of a socket.
CONTENT = np.random.default_rng(1).bytes(3_000_000)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "_PAUSE_SECONDS", 0.0)
    with running_file_server() as running:
        running.files["music.zip"] = CONTENT
        yield running


def remote(server, content=CONTENT, kind="sha256"):
    checksum = f"{kind}:{hashlib.new(kind, content).hexdigest()}"
    return RemoteFile("parts/music.zip", server.url("music.zip"), checksum)


def test_a_file_is_fetched_once(server, tmp_path):
    path = fetch(remote(server), tmp_path)
    assert path == tmp_path / "parts/music.zip"
    assert path.read_bytes() == CONTENT
    assert fetch(remote(server, kind="sha1"), tmp_path) == path
    assert server.ranges == [None]
    assert [entry.name for entry in path.parent.iterdir()] == ["music.zip"]


def test_a_broken_download_resumes(server, tmp_path):
    server.num_bytes_before_break = [1_234_567, 1_000_000]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1234567-", "bytes=2234567-"]


def test_a_partial_file_of_an_earlier_start_is_continued(server, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/music.zip.part").write_bytes(CONTENT[:2_999_999])
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=2999999-"]


def test_a_complete_part_is_used(server, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/music.zip.part").write_bytes(CONTENT)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_server_without_range_requests_sends_everything_again(server, tmp_path):
    server.understands_ranges = False
    server.num_bytes_before_break = [2_000_000]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=2000000-"]


def test_busy_servers_are_retried_a_few_times(server, tmp_path):
    server.failures = [503, 500]
    assert fetch(remote(server), tmp_path / "patient").read_bytes() == CONTENT
    server.failures = [503] * 5
    with pytest.raises(
        ClmrError, match=r"cannot be fetched: the server returned 503; start again to continue from here\.$"
    ):
        fetch(remote(server), tmp_path / "given up")
    assert len(server.ranges) == 3 + 5


def test_a_missing_file_is_reported_at_once(server, tmp_path):
    del server.files["music.zip"]
    with pytest.raises(ClmrError, match="the server returned 404"):
        fetch(remote(server), tmp_path)
    assert len(server.ranges) == 1


def test_an_unreachable_server_is_reported(server, tmp_path):
    gone = RemoteFile("music.zip", "http://127.0.0.1:9/music.zip", "sha256:0")
    with pytest.raises(ClmrError, match=r"cannot be fetched: .*refused"):
        fetch(gone, tmp_path)


def test_a_file_with_a_wrong_checksum_is_removed(server, tmp_path):
    with pytest.raises(ClmrError, match="is not the file that was published"):
        fetch(remote(server, content=b"music"), tmp_path)
    assert list((tmp_path / "parts").iterdir()) == []


def test_a_damaged_part_is_removed(server, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/music.zip.part").write_bytes(b"\0" * 1_000_000)
    with pytest.raises(ClmrError, match="the download was deleted"):
        fetch(remote(server), tmp_path)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_file_of_the_user_is_not_replaced(server, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/music.zip").write_text("mine")
    with pytest.raises(UsageError, match="is not the file that was published"):
        fetch(remote(server), tmp_path)
    assert (tmp_path / "parts/music.zip").read_text() == "mine"


def test_two_processes_do_not_write_one_file(server, tmp_path):
    (tmp_path / "parts").mkdir()
    with (tmp_path / "parts/music.zip.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="Another process is already fetching"):
            fetch(remote(server), tmp_path)


def test_only_http_is_fetched(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(UsageError, match="use http or https"):
        fetch(RemoteFile("copy", f"file://{tmp_path}/secret", "sha256:0"), tmp_path)


def test_checksums(tmp_path):
    (tmp_path / "empty").touch()
    assert has_checksum(tmp_path / "empty", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    assert not has_checksum(tmp_path / "empty", "sha1:0")
