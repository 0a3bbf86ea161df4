"""Music of all formats for the tests of `pipelines.preparation.prepare`, and how they call it."""

from pathlib import Path

import numpy as np

from clmr_tf.data.corpus import Corpus
from pipelines.preparation.prepare import Preparation, PrepareSettings, SourceFile, prepare
from tests.sounds import noise, write_sound

SETTINGS = PrepareSettings(min_num_samples=22050, num_workers=1)


def sources_in(folder: Path, *names: str, split: str = "train") -> list[SourceFile]:
    return [SourceFile(folder / name, name, name, name, split) for name in names]


def run(sources: list[SourceFile], destination: Path, settings: PrepareSettings = SETTINGS, **options) -> Corpus:
    on_progress = options.pop("on_progress", None)
    return prepare(planned(sources, destination, settings, **options), on_progress)


def planned(
    sources: list[SourceFile], destination: Path, settings: PrepareSettings = SETTINGS, **options
) -> Preparation:
    described = {"name": "test", "tag_names": (), "source_description": "made by a test", **options}
    return Preparation(destination, settings, sources, **described)


def write_songs(folder: Path, num_songs: int, seconds: float = 1.5) -> list[str]:
    """Writes stereo noise in four formats in turn; returns the names."""
    folder.mkdir(exist_ok=True)
    names = [f"{number:02d}.{('flac', 'wav', 'mp3', 'ogg')[number % 4]}" for number in range(num_songs)]
    kinds = {"flac": ("FLAC", None), "wav": ("WAV", "PCM_24"), "mp3": ("MP3", None), "ogg": ("OGG", "VORBIS")}
    for number, name in enumerate(names):
        stereo = np.stack([noise(seconds, 44100, seed=number), noise(seconds, 44100, seed=100 + number)], axis=1)
        write_sound(folder / name, stereo, 44100, *kinds[name.split(".")[1]])
    return names


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
