"""A miniature of MagnaTagATune: its audio, its tables in each form that is published, and what a corpus of it holds."""

import csv
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.data.corpus import Corpus
from pipelines import magnatagatune, magnatagatune_clean
from pipelines.magnatagatune import TAGS
from tests.pipelines.published_data import write_clip, write_lines

BAD = "6/norine_braun-now_and_zen-08-gently-117-146.mp3"
# From path to tags; "weird" and "other" are a rare and an unused tag.
CLIPS = {
    "0/ann-album-01-song-0-29.mp3": {"guitar", "weird"},
    "0/ann-album-01-song-30-59.mp3": {"guitar", "other"},
    "b/bob-album-01-song-0-29.mp3": set(),
    BAD: {"guitar"},
    "c/cem-album-02-tune-59-88.mp3": {"female voice", "choral"},
    "d/dan-album-03-piece-0-29.mp3": {"metal"},
    "f/fay-album-04-dance-0-29.mp3": {"slow", "no vocals"},
}
COUNTS = {"train": 3, "valid": 1, "test": 2}
CLEAN_COUNTS = {"train": 2, "valid": 1, "test": 2}
# What becomes of each clip: split, tags and song.
EXPECTED = {
    "0/ann-album-01-song-0-29.mp3": ("train", ("guitar", "weird"), "0/ann-album-01-song"),
    "0/ann-album-01-song-30-59.mp3": ("train", ("guitar",), "0/ann-album-01-song"),
    "b/bob-album-01-song-0-29.mp3": ("train", (), "b/bob-album-01-song"),
    "c/cem-album-02-tune-59-88.mp3": ("valid", ("female voice", "choral"), "c/cem-album-02-tune"),
    "d/dan-album-03-piece-0-29.mp3": ("test", ("metal",), "d/dan-album-03-piece"),
    "f/fay-album-04-dance-0-29.mp3": ("test", ("slow", "no vocals"), "f/fay-album-04-dance"),
}


def write_audio(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes the folder of a data set with as many clips as stand above, without tables; returns it."""
    monkeypatch.setattr(magnatagatune, "NUM_LISTED_CLIPS", len(CLIPS))
    monkeypatch.setattr(magnatagatune, "NUM_CLIPS", COUNTS)
    monkeypatch.setattr(magnatagatune_clean, "NUM_CLIPS", CLEAN_COUNTS)
    for seed, name in enumerate(CLIPS):
        if name != BAD:
            write_clip(data / "audio" / name, seed)
    return data


def write_annotations(data: Path, clips: dict[str, set[str]] = CLIPS) -> None:
    # In an order of its own, as the published table has them.
    columns = [*sorted(TAGS), "other", *(f"tag {number}" for number in range(137))]
    with (data / "annotations_final.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        table.writerow(["clip_id", *columns, "mp3_path"])
        # Enough of each of the 50 that they are the most frequent ones, in a clip that does not count otherwise.
        for number, (path, tags) in enumerate(clips.items()):
            values = [int(tag in tags or (path == BAD and tag in TAGS)) for tag in columns]
            table.writerow([4 * number + 2, *values, path])


def write_split_files(data: Path) -> None:
    write_lines(data / "index_mtt.tsv", *(f"{number}\t{path}" for number, path in enumerate(CLIPS)))
    rows = {"train": [], "valid": [], "test": []}
    for number, (path, tags) in enumerate(CLIPS.items()):
        if path != BAD:
            vector = [1.0 if tag in tags else 0.0 for tag in TAGS]
            rows[magnatagatune.split_of(path)].append(f"{number}\t{vector}")
    for split, lines in rows.items():
        write_lines(data / magnatagatune.LABELS[split], *lines)


def write_numpy_files(data: Path) -> None:
    tags = sorted(TAGS)
    np.save(data / "tags.npy", np.array(tags))
    np.save(data / "binary.npy", np.array([[float(tag in CLIPS[path]) for tag in tags] for path in CLIPS]))
    rows = {"train": [], "valid": [], "test": []}
    for row, path in enumerate(CLIPS):
        if CLIPS[path]:
            rows[magnatagatune.split_of(path)].append(f"{row}\t{path}")
    for split, lines in rows.items():
        np.save(data / f"{split}.npy", np.array(lines))


def described(corpus: Corpus) -> dict[str, tuple]:
    return {item.id: (item.split, item.tags, item.song_id) for item in corpus.items}
