"""A table of real audio files in three folders whose embeddings are three clusters, for taught tags and the page."""

from pathlib import Path

import numpy as np
import soundfile

from clmr_tf.audio.listing import SkippedFile
from clmr_tf.inference.embeddings import FileEmbedding
from clmr_tf.inference.tables import (
    SONGS_FOLDER,
    WINDOWS_FOLDER,
    ListedFile,
    Manifest,
    TableSettings,
    write_part,
)
from tests.synthetic import melody

RATE_HZ = 22_050
DIM = 512
FOLDERS = ("brass", "harp", "piano")
SONGS_PER_FOLDER = 6
NUM_WINDOWS = 6
WINDOW_SECONDS = 2.0
SONG_SECONDS = WINDOW_SECONDS * NUM_WINDOWS
# The last song is silent, and the last window of the first song is like the songs of the folder harp.
SILENT = "piano/5.wav"


def vectors_of(folder: int, seed: int) -> np.ndarray:
    """float32 [NUM_WINDOWS, DIM] around the centre of a folder."""
    centres = np.random.default_rng(7).normal(size=(len(FOLDERS), DIM))
    noise = np.random.default_rng(100 + seed)
    vectors = centres[folder] + 0.6 * noise.normal(size=DIM) + 0.3 * noise.normal(size=(NUM_WINDOWS, DIM))
    return vectors.astype(np.float32)


def write_table(music: Path, table: Path, model_hash: str = "drawn", num_songs: int = SONGS_PER_FOLDER) -> None:
    """Writes songs below `music` and their table; `notes.mp3` is skipped."""
    settings = TableSettings(model_hash, RATE_HZ, int(WINDOW_SECONDS * RATE_HZ), int(WINDOW_SECONDS * RATE_HZ), DIM)
    files, embedded = [], []
    for folder, name in enumerate(FOLDERS):
        (music / name).mkdir(parents=True)
        for number in range(num_songs):
            path = music / name / f"{number}.wav"
            seed = len(files)
            is_silent = path.match(SILENT)
            samples = melody(seed, int(SONG_SECONDS * RATE_HZ))
            # Opened here, because soundfile takes no path that is not UTF-8.
            with path.open("wb") as file:
                soundfile.write(file, np.zeros_like(samples) if is_silent else samples, RATE_HZ, format="WAV")
            vectors = vectors_of(folder, seed)
            if seed == 0:
                vectors[-1] = vectors_of(1, 50)[0]
            times_seconds = np.arange(NUM_WINDOWS) * WINDOW_SECONDS
            embedded.append(FileEmbedding(path, vectors, times_seconds, SONG_SECONDS, False, is_silent))
            files.append(listed(path))
    bad = music / "zz notes.mp3"
    bad.write_text("no music at all, but some words")
    files.append(listed(bad))
    embedded.append(SkippedFile(str(bad), "not_audio", "its content is text"))
    for name in (SONGS_FOLDER, WINDOWS_FOLDER):
        (table / name).mkdir(parents=True)
    Manifest(settings, (write_part(table, settings, files, embedded),)).write(table)


def listed(path: Path) -> ListedFile:
    found = path.stat()
    return ListedFile(str(path), found.st_size, found.st_mtime_ns)
