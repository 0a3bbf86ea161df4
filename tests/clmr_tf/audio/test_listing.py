import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clmr_tf.audio.listing import list_audio
from tests.sounds import tone, write_sound

ROOT = Path(__file__).parents[3]


def touch(folder, *names):
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Every file has its own content and inode; listing does not decode.
        path.write_bytes(os.fsencode(name) * 10)


def reasons(listing):
    return {file.source: file.reason for file in listing.rejected}


def test_names_are_sorted_by_their_bytes_in_any_locale(tmp_path):
    names = ["b.wav", "a/z.wav", "a.wav", "Z.wav", "ä.wav", "a b.wav", "a/B.wav", "10.wav", "9.wav"]
    touch(tmp_path, *names)
    listing = list_audio(tmp_path)
    assert listing.audio == ("10.wav", "9.wav", "Z.wav", "a b.wav", "a.wav", "a/B.wav", "a/z.wav", "b.wav", "ä.wav")
    assert listing.rejected == ()


def test_names_that_are_not_utf8_or_contain_newlines_can_be_opened(tmp_path):
    names = [b"\xff\xfe/\xe9t\xe9.mp3", b"line\nend.mp3", "♥.mp3".encode()]
    touch(tmp_path, *names)
    listing = list_audio(tmp_path)
    assert [os.fsencode(name) for name in listing.audio] == sorted(names)
    for name in listing.audio:
        assert (tmp_path / name).read_bytes() == os.fsencode(name) * 10


def test_audio_is_recognised_by_its_extension_or_its_first_bytes(tmp_path):
    touch(tmp_path, "loud.MP3", "x.flac", "cover.jpg", "notes.txt", "no_extension", "list.m3u")
    write_sound(tmp_path / "restored from disk", tone(440, 0.1, 8000), 8000, "FLAC", "PCM_16")
    write_sound(tmp_path / "track.dat", tone(440, 0.1, 8000), 8000, "WAV", "PCM_16")
    listing = list_audio(tmp_path)
    assert listing.audio == ("loud.MP3", "restored from disk", "track.dat", "x.flac")
    assert reasons(listing) == dict.fromkeys(("cover.jpg", "list.m3u", "no_extension", "notes.txt"), "not_audio")


def test_hidden_files_and_folders_are_rejected(tmp_path):
    touch(tmp_path, "._song.mp3", ".Trash/old.mp3", ".Trash/older.mp3", "song.mp3", "album/.hidden.flac")
    listing = list_audio(tmp_path)
    assert listing.audio == ("song.mp3",)
    assert reasons(listing) == dict.fromkeys(("._song.mp3", ".Trash", "album/.hidden.flac"), "not_audio")


def test_links_are_followed_and_cycles_end(tmp_path):
    music, elsewhere = tmp_path / "music", tmp_path / "elsewhere"
    touch(music, "album/one.mp3", "album/deep/two.mp3")
    touch(elsewhere, "three.mp3", "more/four.mp3")
    (music / "album/deep/up").symlink_to(music)
    (music / "self").symlink_to("self")
    (music / "another disk").symlink_to(elsewhere)
    (elsewhere / "more/back").symlink_to(music / "album")
    (music / "a single.mp3").symlink_to(elsewhere / "three.mp3")
    (music / "gone.mp3").symlink_to(tmp_path / "nowhere.mp3")
    listing = list_audio(music)
    assert listing.audio == ("a single.mp3", "album/deep/two.mp3", "album/one.mp3", "another disk/more/four.mp3")
    assert reasons(listing) == {
        "another disk/three.mp3": "duplicate",
        "gone.mp3": "unreadable",
        "self": "unreadable",
    }


def test_a_linked_file_is_listed_once_under_its_real_name(tmp_path):
    touch(tmp_path, "b/song.mp3", "z/real.mp3")
    os.link(tmp_path / "b/song.mp3", tmp_path / "b/the same.mp3")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "0.mp3").symlink_to("z/real.mp3")
    listing = list_audio(tmp_path)
    assert listing.audio == ("b/song.mp3", "z/real.mp3")
    assert {file.source: file.detail for file in listing.rejected} == {
        "0.mp3": "it is the same file as z/real.mp3",
        "b/the same.mp3": "it is the same file as b/song.mp3",
    }


def test_a_named_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp3")
    os.mkfifo(tmp_path / "pipe")
    assert reasons(list_audio(tmp_path)) == {"pipe": "not_audio", "pipe.mp3": "not_audio"}


def test_a_corpus_inside_its_own_source_is_ignored(tmp_path):
    touch(tmp_path, "song.mp3", "corpus/audio.mp3", "other/corpus/song.mp3")
    assert list_audio(tmp_path, leave_out=tmp_path / "corpus").audio == ("other/corpus/song.mp3", "song.mp3")
    assert list_audio(tmp_path, leave_out=tmp_path / "not there").audio[0] == "corpus/audio.mp3"


def test_a_folder_without_permission_is_rejected_alone():
    # Permissions do not bind root, who therefore becomes nobody, in a place that nobody can reach.
    script = (
        "import os, sys; from pathlib import Path; from clmr_tf.audio.listing import list_audio\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "listing = list_audio(Path(sys.argv[1]))\n"
        "print(listing.audio, [(file.source, file.reason, file.detail) for file in listing.rejected])\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        touch(folder, "open/song.mp3", "closed/secret.mp3", "open/private")
        (folder / "closed").chmod(0)
        (folder / "open/private").chmod(0)
        command = [sys.executable, "-c", script, folder]
        # Where coverage is measured, the other user could not write its file.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        listed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        (folder / "closed").chmod(0o755)
    assert (listed.stdout, listed.stderr) == (
        "('open/song.mp3',) [('closed', 'unreadable', 'the folder cannot be listed: Permission denied'), "
        "('open/private', 'unreadable', 'Permission denied')]\n",
        "",
    )


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list_audio(tmp_path / "missing")
