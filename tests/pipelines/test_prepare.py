"""What a prepared corpus holds, and what is left out of it."""

import dataclasses
import json
import os

import numpy as np
import pytest

from clmr_tf.audio.decoding import load_audio
from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import ClmrError, UsageError
from pipelines.preparation.prepare import SkippedFile
from pipelines.preparation.transcoding import to_pcm16
from tests.pipelines.prepared_music import SETTINGS, bytes_of, run, sources_in, write_songs
from tests.sounds import noise, tone, write_sound

NUM_BYTES_OF_TWO_WEEKS = 14 * 86_400 * 192_000 * 8


def test_the_corpus_has_the_audio_and_labels_of_the_files(tmp_path):
    names = write_songs(tmp_path / "music", 5)
    sources = [
        dataclasses.replace(source, split=split, tags=tags, song_id="one song" if split == "valid" else source.song_id)
        for source, split, tags in zip(
            sources_in(tmp_path / "music", *names),
            ["train", "valid", "train", "valid", "test"],
            [("b",), ("a", "b"), (), ("a",), ("c",)],
            strict=True,
        )
    ]
    corpus = run(sources, tmp_path / "corpus", tag_names=("c", "a", "b"), options={"edition": "second"})
    assert corpus.manifest.num_items == {"train": 2, "valid": 2, "test": 1}
    assert corpus.manifest.num_songs == {"train": 2, "valid": 1, "test": 1}
    assert corpus.manifest.source["edition"] == "second"
    assert corpus.manifest.num_skipped == {}
    assert [item.id for item in corpus.items] == names
    assert [item.split for item in corpus.items] == ["train", "valid", "train", "valid", "test"]
    assert np.array_equal(corpus.multi_hot(np.arange(5)), [[0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]])
    for source, item in zip(sources, corpus.items, strict=True):
        expected = load_audio(source.path, 22050)
        assert item.num_samples == len(expected)
        assert (item.source_rate_hz, item.source_num_channels) == (44100, 2)
        # Half a step of 16 bits; nothing here overshoots.
        assert np.abs(expected).max() < 1
        assert np.abs(corpus.read_samples(item) - expected).max() <= 0.5 / 32768


def test_sixteen_bits_are_rounded_and_clipped():
    samples = np.array([0.0, 0.4, 0.6, -0.6, 32767.4, 32768.0, 1e6, -32768.0, -40000.0], np.float32) / 32768
    assert to_pcm16(samples).tolist() == [0, 0, 1, -1, 32767, 32767, 32767, -32768, -32768]


def test_every_kind_of_bad_file_is_left_out_with_its_reason(tmp_path):
    names = write_songs(tmp_path, 4)
    write_sound(tmp_path / "short.wav", noise(0.99, 44100, seed=1), 44100, "WAV")
    write_sound(tmp_path / "silent.wav", np.zeros(100_000, np.float32), 44100, "WAV")
    dither = np.random.default_rng(2).triangular(-1, 0, 1, 100_000) / 32768
    write_sound(tmp_path / "dither.wav", dither, 44100, "WAV")
    write_sound(tmp_path / "quiet.wav", noise(2.0, 44100, seed=2, level=1 / 1024), 44100, "WAV")
    (tmp_path / "text.mp3").write_text("<html>Not found</html>")
    (tmp_path / "empty.mp3").write_bytes(b"")
    bad = ["short.wav", "silent.wav", "dither.wav", "text.mp3", "empty.mp3", "missing.flac"]
    sources = sources_in(tmp_path, *[*names, *bad, "quiet.wav"])
    rejected = [SkippedFile("cover.jpg", "not_audio", "a picture"), SkippedFile("\udcff.txt", "not_audio", "no")]
    settings = dataclasses.replace(SETTINGS, max_skipped_fraction=0.9)
    corpus = run(sources, tmp_path / "corpus", settings, rejected=rejected)
    assert [item.id for item in corpus.items] == [*names, "quiet.wav"]
    skipped = [json.loads(line) for line in (tmp_path / "corpus/skipped.jsonl").read_text().splitlines()]
    assert {row["source"]: row["reason"] for row in skipped} == {
        "cover.jpg": "not_audio",
        "dither.wav": "silent",
        "empty.mp3": "unreadable",
        "missing.flac": "unreadable",
        "short.wav": "too_short",
        "silent.wav": "silent",
        "text.mp3": "not_audio",
        "\udcff.txt": "not_audio",
    }
    assert [row["source"] for row in skipped] == sorted((row["source"] for row in skipped), key=os.fsencode)
    assert next(row["detail"] for row in skipped if row["source"] == "short.wav") == "it lasts 0.990 s, a clip 1.000 s"
    assert corpus.manifest.num_skipped == {"not_audio": 3, "unreadable": 2, "silent": 2, "too_short": 1}


def test_a_file_over_the_time_limit_is_skipped(tmp_path):
    names = write_songs(tmp_path / "music", 3)
    # Two weeks at 192 kHz, which no machine decodes in its time and, with a hole in the file, take no space.
    long = tmp_path / "music/long.w64"
    write_sound(long, np.zeros((1, 8), np.float32), 192_000, "W64", "PCM_U8")
    content = bytearray(long.read_bytes())
    # A chunk of Wave64 has a name of 16 bytes and its size, these 24 bytes included.
    begin = content.index(b"data")
    content[begin + 16 : begin + 24] = (24 + NUM_BYTES_OF_TWO_WEEKS).to_bytes(8, "little")
    long.write_bytes(content[: begin + 24])
    os.truncate(long, begin + 24 + NUM_BYTES_OF_TWO_WEEKS)
    settings = dataclasses.replace(SETTINGS, timeout_seconds=5.0, num_workers=2)
    corpus = run(sources_in(tmp_path / "music", "long.w64", *names), tmp_path / "corpus", settings)
    assert corpus.manifest.num_skipped == {"timed_out": 1}
    assert [item.id for item in corpus.items] == names


@pytest.mark.parametrize("num_workers", [2, 5])
def test_the_number_of_workers_changes_no_byte(tmp_path, num_workers):
    names = write_songs(tmp_path / "music", 9)
    (tmp_path / "music/bad.wav").write_bytes(b"\0bad")
    sources = sources_in(tmp_path / "music", *names[:4], "bad.wav", *names[4:])
    run(sources, tmp_path / "one", SETTINGS)
    run(sources, tmp_path / "many", dataclasses.replace(SETTINGS, num_workers=num_workers))
    assert bytes_of(tmp_path / "many") == bytes_of(tmp_path / "one")
    shard = "shards/00000-of-00001"
    of_shard = [f"{shard}/{name}" for name in ("audio-00000.pcm", "index.parquet", "manifest.json", "skipped.jsonl")]
    assert sorted(bytes_of(tmp_path / "one")) == ["index.parquet", "manifest.json", *of_shard, "skipped.jsonl"]


def test_the_corpus_does_not_depend_on_the_path_of_its_source(tmp_path):
    names = write_songs(tmp_path / "here", 2)
    write_songs(tmp_path / "there", 2)
    run(sources_in(tmp_path / "here", *names), tmp_path / "first")
    run(sources_in(tmp_path / "there", *names), tmp_path / "second")
    assert bytes_of(tmp_path / "first") == bytes_of(tmp_path / "second")
    assert all(str(tmp_path).encode() not in data for data in bytes_of(tmp_path / "first").values())


def test_progress_is_reported_for_every_file(tmp_path):
    names = write_songs(tmp_path / "music", 3)
    (tmp_path / "music/bad.wav").write_bytes(b"\0bad")
    seen = []
    run(sources_in(tmp_path / "music", *names, "bad.wav"), tmp_path / "corpus", on_progress=seen.append)
    assert [progress.num_done for progress in seen] == [0, 1, 2, 3, 4]
    assert {progress.num_files for progress in seen} == {4}
    assert (seen[-1].num_skipped, round(seen[-1].audio_seconds, 1)) == (1, 4.5)


def test_too_many_bad_files_are_an_error_that_can_be_allowed(tmp_path):
    names = write_songs(tmp_path / "music", 2)
    for number in range(3):
        (tmp_path / f"music/bad{number}.wav").write_bytes(b"\0bad")
    sources = sources_in(tmp_path / "music", *names, "bad0.wav", "bad1.wav", "bad2.wav")
    with pytest.raises(
        ClmrError, match=r"3 of 5 audio files cannot be used \(3 unreadable\).*fraction 0.6\.$"
    ) as caught:
        run(sources, tmp_path / "corpus")
    assert caught.value.exit_code == 1
    assert len((tmp_path / "corpus/skipped.jsonl").read_text().splitlines()) == 3
    with pytest.raises(UsageError, match="has shards that are not merged"):
        Corpus.open(tmp_path / "corpus")
    seen = []
    allowed = dataclasses.replace(SETTINGS, max_skipped_fraction=0.6)
    corpus = run(sources, tmp_path / "corpus", allowed, on_progress=seen.append)
    assert seen == [], "nothing is decoded twice"
    assert len(corpus.items) == 2


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"\0bad")
    with pytest.raises(UsageError, match=r"1 of 1 audio files cannot be used .* would be empty"):
        run(
            sources_in(tmp_path, "bad.wav"),
            tmp_path / "corpus",
            dataclasses.replace(SETTINGS, max_skipped_fraction=1.0),
        )
    with pytest.raises(UsageError, match="no audio"):
        run([], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_direct_reader_needs_only_an_index(tmp_path):
    pytest.importorskip("tensorflow_io", reason="tensorflow-io decodes for the direct reader", exc_type=ImportError)
    names = write_songs(tmp_path / "music", 4, seconds=3.0)
    (tmp_path / "music/bad.flac").write_bytes(b"\0bad")
    write_sound(tmp_path / "music/short.flac", tone(440, 0.5, 44100), 44100, "FLAC")
    sources = sources_in(tmp_path / "music", *names, "bad.flac", "short.flac")
    corpus = run(sources, tmp_path / "corpus", dataclasses.replace(SETTINGS, reader="direct"))
    pcm = run(sources, tmp_path / "pcm")
    assert corpus.manifest.storage == "direct"
    assert corpus.manifest.num_skipped == {"unreadable": 1, "too_short": 1}
    assert [item.file for item in corpus.items] == [str(tmp_path / "music" / name) for name in names]
    assert [item.num_samples for item in corpus.items] == [item.num_samples for item in pcm.items]
    assert not list((tmp_path / "corpus").rglob("*.pcm"))

    (tmp_path / "music").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match=r"no longer exist, such as .*00\.flac"):
        run(sources_in(tmp_path / "moved", *names), tmp_path / "corpus", dataclasses.replace(SETTINGS, reader="direct"))
