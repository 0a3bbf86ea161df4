"""Small synthetic music: prepared corpora and folders of audio files."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from clmr_tf.data.corpus import AudioFile, Corpus, CorpusManifest, write_corpus
from clmr_tf.data.index import Item, index_table

PCM_FILE = "shards/00000-of-00001/audio-00000.pcm"


def melody(seed: int, num_samples: int, sample_rate_hz: int = 22050) -> np.ndarray:
    """Returns decaying tones over soft noise, float32 in [-1, 1]; the register depends on the seed."""
    generator = np.random.default_rng(seed)
    seconds = np.arange(num_samples) / sample_rate_hz
    audio = 0.01 * generator.standard_normal(num_samples)
    for start in np.arange(0, num_samples / sample_rate_hz, 0.4):
        pitch_hz = 110 * 2 ** (seed % 5 + generator.integers(12) / 12)
        age = np.maximum(seconds - start, 0)
        audio += 0.2 * (seconds >= start) * np.exp(-4 * age) * np.sin(2 * np.pi * pitch_hz * age)
    return np.clip(audio, -1, 1).astype(np.float32)


def synthetic_corpus(
    folder: Path,
    *,
    num_songs: dict[str, int],
    items_per_song: int = 1,
    num_samples: int = 70_000,
    tag_names: tuple[str, ...] = (),
) -> Corpus:
    """Writes and opens a prepared corpus whose sample n of item k is a known function of both.

    Item k has `num_samples + k` samples. With tags, song s has the tag s modulo the number of tags.
    """
    items: list[Item] = []
    pcm: list[np.ndarray] = []
    for split, count in num_songs.items():
        for song in range(count):
            for _ in range(items_per_song):
                number = len(items)
                length = num_samples + number
                samples = (32767 * melody(song, length)).astype("<i2") if tag_names else ramp(number, length)
                items.append(
                    Item(
                        id=f"item-{number}",
                        song_id=f"{split}-song-{song}",
                        source=f"{number}.wav",
                        split=split,
                        tags=(tag_names[song % len(tag_names)],) if tag_names else (),
                        file="",
                        offset_samples=sum(map(len, pcm)),
                        num_samples=length,
                        digest=hashlib.sha256(samples.tobytes()).hexdigest()[:16],
                        source_rate_hz=22050,
                        source_num_channels=1,
                        source_num_bytes=1000,
                    )
                )
                pcm.append(samples)
    return save_corpus(folder, items, np.concatenate(pcm), tag_names=tag_names)


def save_corpus(folder: Path, items: Sequence[Item], pcm: np.ndarray | None, **manifest) -> Corpus:
    """Writes and opens a corpus of these items; without samples, int16, its storage is "direct"."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"name": folder.name, "sample_rate_hz": 22050, "tag_names": (), "num_items": {}, "num_songs": {}}
    fields |= {"num_skipped": {}, "source": {}, "tool_versions": {}, "storage": "direct" if pcm is None else "pcm"}
    if pcm is not None:
        (folder / PCM_FILE).parent.mkdir(parents=True, exist_ok=True)
        (folder / PCM_FILE).write_bytes(pcm.astype("<i2").tobytes())
        fields["audio_files"] = (AudioFile(PCM_FILE, len(pcm)),)
    outline = CorpusManifest(**{**fields, **manifest})
    write_corpus(folder, index_table(items, outline.tag_names), outline)
    return Corpus.open(folder)


def changed_corpus(corpus: Corpus, folder: Path, items: Sequence[Item], **manifest) -> Corpus:
    """Writes and opens a corpus with the audio of another one, and other items."""
    pcm = np.concatenate([np.fromfile(corpus.folder / file.file, "<i2") for file in corpus.manifest.audio_files])
    fields = {"name": corpus.manifest.name, "tag_names": corpus.manifest.tag_names, **manifest}
    return save_corpus(folder, items, pcm, **fields)


def ramp(item: int, num_samples: int) -> np.ndarray:
    """Returns int16 samples; any three in a row encode the item and the position."""
    position = np.arange(num_samples)
    values = np.where(position % 3 == 0, item, np.where(position % 3 == 1, position // 3 % 30011, position // 90033))
    return values.astype("<i2")


def write_music(folder: Path, num_songs: int, seconds: float = 4.0, sample_rate_hz: int = 44100) -> None:
    """Writes stereo files in different formats; the second channel is softer than the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for song in range(num_songs):
        suffix = ("wav", "flac", "ogg", "mp3")[song % 4]
        mono = melody(song, round(seconds * sample_rate_hz), sample_rate_hz)
        soundfile.write(folder / f"song {song}.{suffix}", np.stack([mono, 0.5 * mono], axis=1), sample_rate_hz)
