"""Files that made a decoder raise what nobody expected of it: each is its own matter, never that of the others."""

import dataclasses
import random
from pathlib import Path

import av
import pytest

from clmr_tf.audio.decoding import load_audio
from clmr_tf.audio.isolation import Outcome
from pipelines.preparation.prepare import CRASHED, PrepareSettings, SourceFile
from tests.pipelines.prepared_music import run
from tests.sounds import noise, write_encoded, write_sound

RATE_HZ = 22050
SETTINGS = PrepareSettings(min_num_samples=RATE_HZ, num_workers=1, max_skipped_fraction=1.0)


def prepared(folder, destination, settings=SETTINGS):
    names = sorted(path.name for path in folder.iterdir())
    sources = [SourceFile(folder / name, name, name, name, "train") for name in names]
    return run(sources, destination, settings)


def write_tagged(path: Path, title: bytes) -> None:
    """An M4A whose title holds these bytes, whatever they mean."""
    untagged, placeholder = path.with_suffix(".untagged"), "t" * len(title)
    write_encoded(untagged, noise(2.0, 44100, seed=3)[None], 44100, "aac", "ipod")
    with av.open(untagged) as source, path.open("wb") as file, av.open(file, "w", format="ipod") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        target.metadata["title"] = placeholder
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    untagged.unlink()
    content = path.read_bytes()
    assert content.count(placeholder.encode()) == 1
    path.write_bytes(content.replace(placeholder.encode(), title))


def write_caf_with_a_chunk_of_negative_size(path: Path) -> None:
    write_sound(path, noise(2.0, 44100, seed=4), 44100, "CAF")
    content = bytearray(path.read_bytes())
    assert content[52:56] == b"free"
    content[56] = 0x7F
    path.write_bytes(content)


@pytest.mark.parametrize("reader", ["prepared", "direct"])
def test_odd_files_do_not_stop_the_others(tmp_path, reader):
    if reader == "direct":
        pytest.importorskip("tensorflow_io", reason="tensorflow-io decodes for this reader", exc_type=ImportError)
    music = tmp_path / "music"
    music.mkdir()
    write_tagged(music / "1.m4a", b"Mot\xf6rhead")
    write_sound(music / "2.raw", noise(2.0, 44100, seed=2), 44100, "WAV")
    write_caf_with_a_chunk_of_negative_size(music / "3.caf")
    write_sound(music / "4.wav", noise(2.0, 44100, seed=1), 44100, "WAV")
    (music / "5.raw").write_bytes(b"\0odd")
    corpus = prepared(music, tmp_path / "corpus", dataclasses.replace(SETTINGS, reader=reader))
    if reader == "prepared":
        assert [item.id for item in corpus.items] == ["1.m4a", "2.raw", "4.wav"]
        assert corpus.manifest.num_skipped == {"unreadable": 2}
    else:
        assert [item.id for item in corpus.items] == ["2.raw", "4.wav"]
        assert corpus.manifest.num_skipped == {"no_direct_decoder": 1, "unreadable": 2}


def test_a_title_that_is_not_utf8_changes_no_sample(tmp_path):
    write_tagged(tmp_path / "plain.m4a", b"Motorhead")
    write_tagged(tmp_path / "latin.m4a", b"Mot\xf6rhead")
    assert (
        load_audio(tmp_path / "latin.m4a", RATE_HZ).tobytes() == load_audio(tmp_path / "plain.m4a", RATE_HZ).tobytes()
    )


def test_a_file_with_a_wrong_extension_is_decoded(tmp_path):
    write_sound(tmp_path / "sound.wav", noise(2.0, RATE_HZ, seed=2), RATE_HZ, "WAV")
    (tmp_path / "sound.raw").write_bytes((tmp_path / "sound.wav").read_bytes())
    assert (
        load_audio(tmp_path / "sound.raw", RATE_HZ).tobytes() == load_audio(tmp_path / "sound.wav", RATE_HZ).tobytes()
    )


LIBSNDFILE_KINDS = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3", "aiff": "AIFF", "au": "AU", "caf": "CAF"}
FFMPEG_KINDS = {"m4a": ("aac", "ipod"), "alac.m4a": ("alac", "ipod"), "aac": ("aac", "adts"), "wma": ("wmav2", "asf")}
NUM_DAMAGED = 8


def write_damaged(folder: Path) -> None:
    """A healthy file of every kind, and copies with flipped bytes, half of these in the header."""
    sound, generator = noise(1.5, 44100, seed=5), random.Random(6)
    for kind in (*LIBSNDFILE_KINDS, *FFMPEG_KINDS):
        healthy = folder / f"healthy.{kind}"
        if kind in LIBSNDFILE_KINDS:
            write_sound(healthy, sound, 44100, LIBSNDFILE_KINDS[kind])
        else:
            write_encoded(healthy, sound[None], 44100, *FFMPEG_KINDS[kind])
        content = healthy.read_bytes()
        for number in range(NUM_DAMAGED):
            damaged = bytearray(content)
            for _ in range(generator.choice([1, 4, 16])):
                damaged[generator.randrange(128 if number % 2 else len(content))] = generator.randrange(256)
            (folder / f"damaged-{number}.{kind}").write_bytes(damaged)


def test_no_flipped_byte_stops_a_preparation(tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    write_damaged(music)
    num_kinds = len(LIBSNDFILE_KINDS) + len(FFMPEG_KINDS)
    corpus = prepared(music, tmp_path / "corpus", dataclasses.replace(SETTINGS, num_workers=2))
    assert len(corpus.items) + sum(corpus.manifest.num_skipped.values()) == num_kinds * (1 + NUM_DAMAGED)
    assert corpus.manifest.num_skipped.keys() <= {"unreadable", "not_audio", "too_short", "silent", CRASHED}
    assert corpus.manifest.num_skipped["unreadable"] > num_kinds
    healthy = {item.id: item for item in corpus.items if item.id.startswith("healthy")}
    assert len(healthy) == num_kinds
    # What a decoder remembers of a damaged file does not reach the next one.
    for name, item in healthy.items():
        assert item.num_samples == len(load_audio(music / name, RATE_HZ))


def test_a_file_may_be_removed_once_it_is_decoded(tmp_path, monkeypatch):
    def decode_and_delete(function, tasks, **_):
        for task in tasks:
            outcome = Outcome(function(task))
            task.path.unlink()
            yield outcome

    monkeypatch.setattr("pipelines.preparation.prepare.run_in_workers", decode_and_delete)
    music = tmp_path / "music"
    music.mkdir()
    write_sound(music / "1.wav", noise(2.0, 44100, seed=1), 44100, "WAV")
    num_bytes = (music / "1.wav").stat().st_size
    assert [item.source_num_bytes for item in prepared(music, tmp_path / "corpus").items] == [num_bytes]
