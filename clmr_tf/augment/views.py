"""Views of a recording and pictures of them: waveforms and spectrograms."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from clmr_tf.audio.isolation import IsolatedDecoder
from clmr_tf.augment.chain import AugmentationChain
from clmr_tf.config.augmentation import AugmentationConfig
from clmr_tf.errors import UsageError
from clmr_tf.models.clip_encoder import CLIP_NUM_SAMPLES


@dataclasses.dataclass(frozen=True)
class Views:
    """Crops of a recording and the views made from them.

    Attributes:
        crops: float32 [views, samples].
        views: float32 [views, samples].
        parameters: For each view the start of its crop ("crop_first_sample", and "crop_seconds", rounded) and the
            parameters of the augmentations that were applied ("applied"), by name in the order of the chain; plain
            JSON data.
        sample_rate_hz: Sample rate of both.
        is_silent: Whether nothing in the recording exceeds -80 dB.
        lost_seconds: Estimated duration of what could not be decoded.
    """

    crops: np.ndarray
    views: np.ndarray
    parameters: list[dict[str, Any]]
    sample_rate_hz: int
    is_silent: bool
    lost_seconds: float


def make_views(
    recording: Path,
    config: AugmentationConfig,
    decoder: IsolatedDecoder,
    *,
    num_views: int,
    seed: int,
    sample_rate_hz: int,
) -> Views:
    """Makes views of random crops of a recording; the first views do not depend on how many are made.

    With an asymmetric configuration every view is augmented, like the first view of a pair.

    Args:
        recording: An audio file.
        config: Configuration of the augmentation chain.
        decoder: Decodes the file twice: once for its length, and once for the crops, so only these are kept in memory.
        num_views: Number of views.
        seed: Seed of crops and parameters.
        sample_rate_hz: Sample rate of the views.

    Raises:
        UsageError: If the recording is shorter than a clip.
        UnreadableAudioError: If it cannot be decoded.
    """
    with decoder.open(recording, sample_rate_hz) as stream:
        total_num_samples = sum(len(block) for block in stream.blocks)
    num_samples = CLIP_NUM_SAMPLES[sample_rate_hz]
    if total_num_samples < num_samples:
        raise UsageError(
            f"{recording} is {total_num_samples / sample_rate_hz:.2f} s long, less than the "
            f"{num_samples / sample_rate_hz:.2f} s of a clip; give a longer one."
        )
    generator = np.random.default_rng(seed)
    draws = [
        (generator.integers(total_num_samples - num_samples + 1), generator.integers(-(2**31), 2**31, 2))
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
            "applied": _applied(drawn, row),
        }
        for row, (offset, _) in enumerate(draws)
    ]
    return Views(crops, views, parameters, sample_rate_hz, stream.report.is_silent, stream.report.lost_seconds)


def _crops_at(offsets: Sequence[int], num_samples: int, blocks: Iterator[np.ndarray]) -> np.ndarray:
    """Crops that start at `offsets` of the audio that `blocks` add up to, float32 [len(offsets), num_samples]."""
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
    """The parameters of what was applied to one view, by augmentation."""
    return {
        name: {
            parameter: values[row].numpy().item()
            for parameter, values in parameters.items()
            if parameter not in ("applied", "seeds")
        }
        for name, parameters in drawn.items()
        if parameters["applied"][row]
    }


_FFT_LENGTH, _HOP = 1024, 256
_FLOOR_DB = -90


def draw_views(views: Views, picture: Path) -> None:
    """Writes a PNG with one row per view: waveform and spectrogram of its crop and of the view."""
    num_views = len(views.views)
    figure, axes = plt.subplots(
        num_views, 4, figsize=(15, 1.9 * num_views + 0.5), layout="constrained", squeeze=False, sharex=True
    )
    for row, crop, view, parameters in zip(axes, views.crops, views.views, views.parameters, strict=True):
        limit = max(np.abs(crop).max(), np.abs(view).max(), 1e-6)
        for pair, samples in ((row[:2], crop), (row[2:], view)):
            draw_sound(*pair, samples, views.sample_rate_hz, limit)
        row[0].set_title(f"crop at {parameters['crop_seconds']:.1f} s", fontsize=8, loc="left")
        row[2].set_title(caption(parameters["applied"]), fontsize=8, loc="left")
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=8)
    figure.savefig(picture, dpi=90, metadata={"Software": None})
    plt.close(figure)


def draw_sound(waveform: plt.Axes, spectrogram: plt.Axes, samples: np.ndarray, rate_hz: int, limit: float) -> None:
    """Draws [samples] on two axes: a waveform from -limit to limit, and a spectrogram in dB of full scale."""
    seconds = len(samples) / rate_hz
    waveform.plot(np.arange(len(samples)) / rate_hz, samples, color="#1f4e8c", linewidth=0.3)
    waveform.set_ylim(-limit, limit)
    window = np.hanning(_FFT_LENGTH)
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FFT_LENGTH)[::_HOP] * window
    levels_db = 20 * np.log10(np.abs(np.fft.rfft(frames)) / (window.sum() / 2) + 1e-9)
    extent = (0, seconds, 0, rate_hz / 2000)
    spectrogram.imshow(levels_db.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=_FLOOR_DB, vmax=0)
    spectrogram.set_ylabel("kHz", fontsize=7)
    for axis in (waveform, spectrogram):
        axis.set_xlim(0, seconds)
        axis.tick_params(labelsize=7)


def caption(applied: dict[str, dict[str, Any]]) -> str:
    """The augmentations of a view in a few words."""
    words = {
        "polarity": lambda of: "polarity",
        "noise": lambda of: _noise_level(of["noise_to_signal"]),
        "gain": lambda of: f"gain {of['gain_db']:.1f} dB",
        "filter": lambda of: f"{'low' if of['is_lowpass'] else 'high'}-pass {of['cutoff_hz']:.0f} Hz",
        "delay": lambda of: f"delay {of['delay_ms']:.0f} ms",
        "pitch": lambda of: f"pitch {of['cents']:+.0f} cents",
        "reverb": lambda of: "reverb " + "/".join(f"{of[p]:.0f}" for p in ("reverberance", "damping", "room_scale")),
    }
    return ", ".join(words[name](parameters) for name, parameters in applied.items()) or "unchanged"


def _noise_level(noise_to_signal: float) -> str:
    return f"noise {20 * np.log10(noise_to_signal):.0f} dB" if noise_to_signal > 0 else "no noise"
