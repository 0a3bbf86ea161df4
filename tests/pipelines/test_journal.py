import dataclasses
import json

import numpy as np
import pytest

from clmr_tf.audio.listing import SkippedFile
from clmr_tf.data.index import Item
from pipelines.preparation import journal as growing_audio
from pipelines.preparation.journal import digest_of, opened_journal, pcm_file

PCM_FILE = pcm_file(0)
STATE = {"settings": "as ever"}


def audio_of(number):
    return np.random.default_rng(number).integers(-1000, 1000, 100 + number, np.int16).astype("<i2").tobytes()


def audio_in(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.pcm")))


def write(folder, num_items, state=STATE):
    """Adds items 0, 1, ... up to `num_items`, with a skipped file after every second one."""
    with opened_journal(folder, folder, state, with_audio=True) as journal:
        for number in range(len(journal.items), num_items):
            part = journal.parts / str(number)
            part.write_bytes(audio_of(number))
            item = Item(
                id=f"{number} ♥ \udcff",
                song_id=str(number),
                source=f"line\nend {number}",
                split="train",
                tags=("a", "b"),
                file="",
                offset_samples=journal.audio.num_samples,
                num_samples=100 + number,
                digest=digest_of(audio_of(number)),
                source_rate_hz=44100,
                source_num_channels=2,
                source_num_bytes=1000,
            )
            journal.add_item(item, part)
            assert not part.exists()
            if number % 2:
                journal.add_skipped(SkippedFile(f"bad {number}", "unreadable", "why"), journal.parts / "none")
        return journal.items, journal.skipped


def reopen(folder, state=STATE):
    with opened_journal(folder, folder, state, with_audio=True) as journal:
        return journal.items, journal.skipped


def assert_sound(folder, num_items):
    """What is there are the first `num_items` items and nothing else, and it grows on as if nothing had been."""
    items, _ = reopen(folder)
    assert [item.song_id for item in items] == [str(number) for number in range(num_items)]
    assert audio_in(folder) == b"".join(audio_of(number) for number in range(num_items))
    write(folder, 8)
    assert audio_in(folder) == b"".join(audio_of(number) for number in range(8))


def test_added_rows_are_read_again(tmp_path):
    items, skipped = write(tmp_path, 5)
    assert reopen(tmp_path) == (items, skipped)
    assert [file.source for file in skipped] == ["bad 1", "bad 3"]
    assert_sound(tmp_path, 5)


def test_a_torn_journal_is_cut_to_its_complete_rows(tmp_path):
    write(tmp_path, 4)
    journal = (tmp_path / "journal.jsonl").read_bytes()
    audio = (tmp_path / PCM_FILE).read_bytes()
    ends = [index + 1 for index, byte in enumerate(journal) if byte == ord("\n")]
    assert len(ends) == 6
    is_item = ["id" in json.loads(line) for line in journal.splitlines()]
    for length in range(0, len(journal) + 1, 37):
        (tmp_path / "journal.jsonl").write_bytes(journal[:length])
        (tmp_path / PCM_FILE).write_bytes(audio)
        num_rows = sum(end <= length for end in ends)
        items, skipped = reopen(tmp_path)
        assert len(items) == sum(is_item[:num_rows])
        assert len(skipped) == num_rows - len(items)
        assert (tmp_path / "journal.jsonl").read_bytes() == journal[: ends[num_rows - 1] if num_rows else 0]
        assert audio_in(tmp_path) == b"".join(map(audio_of, range(len(items))))


@pytest.mark.parametrize("torn", [b"\0" * 300, b'{"id": "x"}\n', b"[]\n", b"12\n", b'{"reason": 1}\n', b"\xff\xfe\n"])
def test_an_invalid_row_ends_the_journal(tmp_path, torn):
    write(tmp_path, 3)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(torn + b"\n")
    assert_sound(tmp_path, 3)


@pytest.mark.parametrize("num_bytes", [0, 1, 200, 201, 401, 405])
def test_audio_after_the_last_row_and_rows_without_audio_are_removed(tmp_path, num_bytes):
    write(tmp_path, 3)
    with (tmp_path / PCM_FILE).open("ab") as file:
        file.write(b"half an item")
    assert_sound(tmp_path, 3)

    other = tmp_path / "other"
    other.mkdir()
    write(other, 3)
    with (other / PCM_FILE).open("rb+") as file:
        file.truncate(num_bytes)
    # Items of 100, 101 and 102 samples.
    assert_sound(other, sum(end <= num_bytes for end in (200, 402, 606)))


@pytest.mark.parametrize(("first_bad_byte", "num_left"), [(0, 0), (199, 0), (200, 1), (605, 2)])
def test_audio_zeroed_by_a_power_cut_is_decoded_again(tmp_path, first_bad_byte, num_left):
    write(tmp_path, 3)
    with (tmp_path / PCM_FILE).open("rb+") as file:
        file.seek(first_bad_byte)
        file.write(b"\x55")
    assert_sound(tmp_path, num_left)


def test_only_audio_that_may_not_have_been_synced_is_read_again(tmp_path, monkeypatch):
    write(tmp_path, 6)
    with (tmp_path / PCM_FILE).open("rb+") as file:
        file.write(b"\x55")
    # The last two items have 104 and 105 samples.
    monkeypatch.setattr(growing_audio, "_SYNC_BYTES", 2 * 105 + 1)
    assert len(reopen(tmp_path)[0]) == 6
    monkeypatch.setattr(growing_audio, "_SYNC_BYTES", 10_000)
    assert len(reopen(tmp_path)[0]) == 0


def test_another_state_starts_again_in_a_new_file(tmp_path):
    write(tmp_path, 3)
    mapped = np.memmap(tmp_path / PCM_FILE, "<i2", "r")
    before = mapped.tolist()
    assert reopen(tmp_path, {"settings": "new"}) == ([], [])
    assert not (tmp_path / PCM_FILE).exists()
    # Truncating the old file in place would end this process with SIGBUS.
    assert mapped.tolist() == before


def test_without_audio_only_rows_are_kept(tmp_path):
    (tmp_path / "pcm").mkdir()
    (tmp_path / "direct").mkdir()
    made, _ = write(tmp_path / "pcm", 2)
    items = [dataclasses.replace(item, file="/music/song.mp3", offset_samples=0) for item in made]
    folder = tmp_path / "direct"
    with opened_journal(folder, folder, STATE, with_audio=False) as journal:
        for item in items:
            journal.add_item(item, journal.parts / "none")
    with opened_journal(folder, folder, STATE, with_audio=False) as journal:
        assert journal.items == items
    assert not list(folder.glob("*.pcm"))


def test_parts_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / "parts-old").mkdir()
    (tmp_path / "parts-old/7").write_bytes(b"half a song")
    write(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"journal.jsonl", "state.json", PCM_FILE}


def test_files_are_bounded_and_no_item_is_in_two(tmp_path, monkeypatch):
    # Items of 100 to 107 samples: two in every file.
    monkeypatch.setattr(growing_audio, "MAX_FILE_NUM_SAMPLES", 210)
    write(tmp_path, 8)
    files = sorted(tmp_path.glob("*.pcm"))
    assert [path.stat().st_size // 2 for path in files] == [201, 205, 209, 106, 107]
    with opened_journal(tmp_path, tmp_path, STATE, with_audio=True) as journal:
        assert [(file.file, file.num_samples) for file in journal.audio.files] == [
            (path.name, path.stat().st_size // 2) for path in files
        ]
    # A kill, or a power cut that loses the end of a file in the middle.
    files[1].write_bytes(files[1].read_bytes()[:-1])
    assert_sound(tmp_path, 3)
    other = tmp_path / "other"
    other.mkdir()
    write(other, 5)
    (other / pcm_file(3)).write_bytes(b"left by a kill between audio and journal")
    assert_sound(other, 5)
