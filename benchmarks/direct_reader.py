"""CPU time of reading a crop directly from a compressed file, compared with reading prepared PCM.

    python -m benchmarks.direct_reader

prints one JSON object. Both readers are those of training, on corpora that the folder pipeline prepares, with a warm
file cache. Songs are three minutes of 44.1 kHz stereo; one is like the clips of MagnaTagATune, 29 s of 16 kHz mono MP3.
`libsndfile_ms` is the time of reading the same crop with libsndfile and resampling it with soxr in Python. Training
cannot read MP3 in this way, because a seek loses the bit reservoir of the preceding frames, but it shows how fast
decoding can be.
"""

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import soundfile
import soxr
import tensorflow as tf

from clmr_tf.audio.resampling import plan_block, resample_block
from clmr_tf.console import run_command, stdout
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import CropReader, crop_reader
from clmr_tf.data.direct_reader import tensorflow_io_decoders
from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES
from pipelines.folder import FolderSettings, prepare_corpus
from pipelines.preparation.prepare import PrepareSettings

SAMPLE_RATE_HZ, CROP_NUM_SAMPLES = next(iter(CLIP_NUM_SAMPLES.items()))
# Starting an iterator and first using each decoder take as long as reading many crops.
NUM_WARM_UP_CROPS = 50


@dataclasses.dataclass(frozen=True)
class Song:
    """The settings of a file that soundfile writes."""

    suffix: str
    options: dict[str, object]
    rate_hz: int = 44_100
    num_channels: int = 2
    seconds: int = 180

    def shortened(self, max_seconds: int) -> "Song":
        """Returns the song limited to `max_seconds`."""
        return dataclasses.replace(self, seconds=min(self.seconds, max_seconds))


SONGS = {
    "mp3": Song("mp3", {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.5}),
    "ogg": Song("ogg", {"format": "OGG", "subtype": "VORBIS"}),
    "flac": Song("flac", {"format": "FLAC", "subtype": "PCM_16"}),
    "wav": Song("wav", {"format": "WAV", "subtype": "PCM_16"}),
    "magnatagatune_mp3": Song(
        "mp3",
        {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.9},
        rate_hz=16_000,
        num_channels=1,
        seconds=29,
    ),
}


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.direct_reader", description="Times the direct reader.")
    parser.add_argument("--num-crops", type=int, default=100, help="crops per measurement (default: 100)")
    parser.add_argument(
        "--max-seconds", type=int, default=180, help="limit songs to this length in seconds (default: 180)"
    )
    parser.add_argument("--songs", nargs="+", choices=SONGS, default=list(SONGS), help="songs to time (default: all)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.num_crops < 1 or options.max_seconds < 4:
        parser.error("--num-crops must be at least 1 and --max-seconds at least 4, so that a song holds a crop")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    songs = {name: SONGS[name].shortened(options.max_seconds) for name in options.songs}
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), songs, options.num_crops)
    stdout.out(json.dumps(result, indent=2))


def measure(folder: Path, songs: dict[str, Song], num_crops: int) -> dict[str, object]:
    """Writes the songs to `folder`, prepares both kinds of corpora and times `num_crops` crops of each song."""
    music = folder / "music"
    music.mkdir()
    for name, song in songs.items():
        write(music / f"{name}.{song.suffix}", song)
    prepared, direct = (
        prepare_corpus(music, folder / reader, PrepareSettings(reader=reader), FolderSettings(valid_fraction=0.0))
        for reader in ("prepared", "direct")
    )
    # The format of the source does not matter for PCM.
    name, song = next(iter(songs.items()))
    pcm_ms = milliseconds_per_crop(reader_of(prepared, f"{name}.{song.suffix}"), song.seconds, num_crops)
    # Without tensorflow-io, PyAV decodes.
    decoder = "av" if tensorflow_io_decoders() is None else "tensorflow-io"
    return {
        "benchmark": "direct_reader",
        "measure": "milliseconds of one core per crop",
        "crop_num_samples": CROP_NUM_SAMPLES,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "num_crops": num_crops,
        "pcm_ms": round(pcm_ms, 2),
        "songs": {name: measure_song(direct, music, name, song, num_crops, pcm_ms) for name, song in songs.items()},
        "versions": {
            "tensorflow": tf.__version__,
            decoder: importlib.metadata.version(decoder),
            "libsndfile": soundfile.__libsndfile_version__,
        },
    }


def measure_song(
    direct: Corpus, music: Path, name: str, song: Song, num_crops: int, pcm_ms: float
) -> dict[str, object]:
    """Times the crops of one song."""
    path = music / f"{name}.{song.suffix}"
    crop_ms = milliseconds_per_crop(reader_of(direct, path.name), song.seconds, num_crops)
    return {
        "song": {key: getattr(song, key) for key in ("rate_hz", "num_channels", "seconds")},
        "file_megabytes": round(path.stat().st_size / 1e6, 2),
        "crop_ms": round(crop_ms, 2),
        "of_that_resampling_ms": round(milliseconds_per_crop(resampler(song), song.seconds, num_crops), 2),
        "times_pcm": round(crop_ms / pcm_ms, 1),
        "libsndfile_ms": round(milliseconds_with_libsndfile(path, song, num_crops), 2),
    }


def reader_of(corpus: Corpus, source: str) -> CropReader:
    """Returns the training reader of the corpus' only item that was made from the file `source`."""
    rows = np.flatnonzero([item.source == source for item in corpus.items])
    return crop_reader(corpus, rows, CROP_NUM_SAMPLES)


def write(path: Path, song: Song) -> None:
    """Writes decaying chords over soft noise, one second at a time."""
    generator = np.random.default_rng(0)
    seconds = np.arange(song.rate_hz) / song.rate_hz
    # Writing a whole song in one call overflows the stack of libsndfile's Vorbis encoder.
    with soundfile.SoundFile(path, "w", song.rate_hz, song.num_channels, **song.options) as file:
        for _ in range(song.seconds):
            pitches_hz = 110 * 2 ** (generator.integers(0, 48, 6) / 12)
            chord = np.sin(2 * np.pi * np.outer(seconds, pitches_hz)).sum(axis=1) * np.exp(-2 * seconds)
            noise = generator.standard_normal((song.rate_hz, song.num_channels))
            file.write(0.08 * chord[:, None] + 0.005 * noise)


def resampler(song: Song) -> CropReader:
    """Returns a reader that does only what the direct reader does after decoding."""
    samples = tf.random.stateless_uniform([4 * song.rate_hz], [1, 2])

    def resample(_item: tf.Tensor, offset_samples: tf.Tensor) -> tf.Tensor:
        block = plan_block(offset_samples, CROP_NUM_SAMPLES, tf.constant(song.rate_hz), SAMPLE_RATE_HZ)
        return resample_block(samples[: block.num_samples], block, CROP_NUM_SAMPLES)

    return resample


def milliseconds_per_crop(read: CropReader, seconds: int, num_crops: int) -> float:
    """Returns the CPU time of reading random crops of item 0 in Dataset.map, one after the other."""
    offsets = random_offsets(seconds, NUM_WARM_UP_CROPS + num_crops)
    crops = iter(tf.data.Dataset.from_tensor_slices((np.zeros_like(offsets), offsets)).map(read))
    for _ in itertools.islice(crops, NUM_WARM_UP_CROPS):
        pass
    begin = time.process_time()
    for _ in itertools.islice(crops, num_crops):
        pass
    return (time.process_time() - begin) / num_crops * 1000


def milliseconds_with_libsndfile(path: Path, song: Song, num_crops: int) -> float:
    """Returns the CPU time of reading the same crops with libsndfile and soxr, outside of a graph."""
    ratio = song.rate_hz / SAMPLE_RATE_HZ
    begin = time.process_time()
    for offset in random_offsets(song.seconds, num_crops):
        with soundfile.SoundFile(path) as file:
            file.seek(round(ratio * offset))
            samples = file.read(round(ratio * CROP_NUM_SAMPLES), dtype="float32", always_2d=True)
        mono = samples[:, 0] if song.num_channels == 1 else samples[:, 0] + samples[:, 1]
        soxr.resample(mono, song.rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
    return (time.process_time() - begin) / num_crops * 1000


def random_offsets(seconds: int, num_crops: int) -> np.ndarray:
    """Returns crop offsets in samples at the crop's rate, int64 [num_crops]; the same in every measurement."""
    return np.random.default_rng(1).integers(0, seconds * SAMPLE_RATE_HZ - CROP_NUM_SAMPLES, num_crops)


if __name__ == "__main__":
    sys.exit(run_command(main))
