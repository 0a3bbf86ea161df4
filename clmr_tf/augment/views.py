"""Views of recordings as sound files."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tensorflow as tf

from clmr_tf.audio.isolation import IsolatedDecoder
from clmr_tf.augment.chain import AugmentationChain
from clmr_tf.augment.view_folder import sound_files
from clmr_tf.config.augmentation import AugmentationConfig
from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically
from clmr_tf.models.sample_cnn import CLIP_NUM_SAMPLES


@dataclasses.dataclass(frozen=True)
class Views:
    """Crops of a recording and the views made of them.

    Attributes:
        crops: float32 [views, samples].
        views: float32 [views, samples].
        parameters: For each view where its crop begins ("crop_first_sample" at this rate, and "crop_seconds", rounded)
            and what was applied ("applied"), by augmentation, in the order of the chain; plain JSON data.
        sample_rate_hz: Of both.
        is_silent: Whether the recording holds nothing above -80 dB.
        lost_seconds: How much of its file could not be decoded, estimated.
    """

    crops: np.ndarray
    views: np.ndarray
    parameters: list[dict[str, Any]]
    sample_rate_hz: int
    is_silent: bool
    lost_seconds: float

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
    return Views(crops, views, parameters, sample_rate_hz, stream.report.is_silent, stream.report.lost_seconds)


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
