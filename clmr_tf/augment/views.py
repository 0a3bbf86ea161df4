"""Views of recordings as sound files."""

import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tensorflow as tf

from clmr_tf.audio.isolation import IsolatedDecoder
from clmr_tf.augment.chain import AugmentationChain
from clmr_tf.config.augmentation import AugmentationConfig
from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically
from clmr_tf.models.sample_cnn import CLIP_NUM_SAMPLES

MAX_NUM_VIEWS = 100
PARAMETERS_FILE = "views.json"
PICTURE_FILE = "views.png"


def sound_files(number: int) -> tuple[str, str]:
    """Names of the crop and of the view with this number, from 1 on."""
    return f"crop-{number}.wav", f"view-{number}.wav"


def check_can_be_written(folder: Path, num_views: int) -> None:
    """Raises UsageError if something stands in the place of the folder or of a file that is to be written into it."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another --out.")
    for name in (*_all_sound_files(range(1, num_views + 1)), PARAMETERS_FILE, PICTURE_FILE):
        if (folder / name).is_dir():
            raise UsageError(f"{folder / name} is a folder; move it away or choose another --out.")


def make_folder(folder: Path) -> None:
    """Makes the folder and those above it where they are missing.

    Raises:
        UsageError: If that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from error


def remove_sounds_beyond(folder: Path, num_views: int) -> None:
    """Removes the crops and views that an earlier run with more of them left behind."""
    for name in _all_sound_files(range(num_views + 1, MAX_NUM_VIEWS + 1)):
        if (folder / name).is_file():
            (folder / name).unlink()


def _all_sound_files(numbers: Iterable[int]) -> list[str]:
    return [name for number in numbers for name in sound_files(number)]


@dataclasses.dataclass(frozen=True)
class Views:
    """Crops of a recording and the views made of them.

    Attributes:
        crops: float32 [views, samples].
        views: float32 [views, samples].
        parameters: For each view where its crop begins ("crop_first_sample" at this rate, and "crop_seconds", rounded)
            and what was applied ("applied"), by augmentation, in the order of the chain; plain JSON data.
        sample_rate_hz: Of both.
    """

    crops: np.ndarray
    views: np.ndarray
    parameters: list[dict[str, Any]]
    sample_rate_hz: int

    def write_sounds(self, folder: Path) -> None:
        """Writes crop-1.wav, view-1.wav and so on, 32-bit float, since a view may exceed full scale."""
        for number, sounds in enumerate(zip(self.crops, self.views, strict=True), start=1):
            for name, samples in zip(sound_files(number), sounds, strict=True):
                wav = io.BytesIO()
                soundfile.write(wav, samples, self.sample_rate_hz, format="WAV", subtype="FLOAT")
                write_atomically(folder / name, wav.getvalue())


def make_views(
    recording: Path,
    config: AugmentationConfig,
    decoder: IsolatedDecoder,
    *,
    num_views: int,
    seed: int,
    sample_rate_hz: int,
) -> Views:
    """Makes views of random crops of a recording; the first is always the same, however many are made.

    With an asymmetric configuration every view is augmented, as the first of a pair is.

    Args:
        recording: An audio file.
        config: The augmentation chain.
        decoder: Decodes the file, twice: its length is known when it has been decoded once, and only crops are kept.
        num_views: How many.
        seed: Of crops and parameters.
        sample_rate_hz: Rate of the views.

    Raises:
        UsageError: If the recording is shorter than a clip.
        UnreadableAudioError: If it cannot be decoded.
    """
    with decoder.open(recording, sample_rate_hz) as stream:
        total_num_samples = sum(len(block) for block in stream.blocks)
    num_samples = CLIP_NUM_SAMPLES[sample_rate_hz]
    if total_num_samples < num_samples:
        raise UsageError(
            f"{recording} has {total_num_samples / sample_rate_hz:.2f} s, less than the "
            f"{num_samples / sample_rate_hz:.2f} s of a clip; give a longer one."
        )
    random = np.random.default_rng(seed)
    draws = [
        (random.integers(total_num_samples - num_samples + 1), random.integers(-(2**31), 2**31, 2))
        for _ in range(num_views)
    ]
    with decoder.open(recording, sample_rate_hz) as stream:
        crops = _crops_at([offset for offset, _ in draws], num_samples, stream.blocks)
    seeds = tf.constant(np.stack([seed_pair for _, seed_pair in draws]), tf.int32)
    chain = AugmentationChain(config, sample_rate_hz)
    drawn = chain.draw(seeds, tf.ones([num_views], tf.bool))
    views = chain.apply(crops, drawn).numpy()
    parameters = [
        {
            "crop_first_sample": int(offset),
            "crop_seconds": round(offset / sample_rate_hz, 3),
            "applied": _applied(drawn, number),
        }
        for number, (offset, _) in enumerate(draws)
    ]
    return Views(crops, views, parameters, sample_rate_hz)


def _crops_at(offsets: Sequence[int], num_samples: int, blocks: Iterator[np.ndarray]) -> np.ndarray:
    """The crops that begin at `offsets` of the audio that `blocks` make up, float32 [len(offsets), num_samples]."""
    crops = np.zeros([len(offsets), num_samples], np.float32)
    block_start = 0
    for block in blocks:
        for crop, offset in zip(crops, offsets, strict=True):
            first, end = max(offset, block_start), min(offset + num_samples, block_start + len(block))
            if first < end:
                crop[first - offset : end - offset] = block[first - block_start : end - block_start]
        block_start += len(block)
    return crops


def _applied(drawn: dict[str, dict[str, tf.Tensor]], row: int) -> dict[str, dict[str, Any]]:
    """What was applied to one view: parameters by name, by augmentation."""
    return {
        name: {
            parameter: values[row].numpy().item()
            for parameter, values in parameters.items()
            if parameter not in ("applied", "seeds")
        }
        for name, parameters in drawn.items()
        if parameters["applied"][row]
    }
