"""Pictures of crops and their views: waveforms and spectrograms, with what was done as a caption."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from clmr_tf.augment.views import Views

_FFT_LENGTH, _HOP = 1024, 256
_FLOOR_DB = -90


def draw_views(views: Views, picture: Path) -> None:
    """Writes a PNG with a row for each view: waveform and spectrogram of its crop, and the same of the view."""
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
    """Draws samples [samples] on two axes, as a waveform up to `limit` and as a spectrogram in dB of full scale."""
    seconds = len(samples) / rate_hz
    waveform.plot(np.arange(len(samples)) / rate_hz, samples, color="#1f4e8c", linewidth=0.3)
    waveform.set_ylim(-limit, limit)
    window = np.hanning(_FFT_LENGTH)
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FFT_LENGTH)[::_HOP] * window
    levels = 20 * np.log10(np.abs(np.fft.rfft(frames)) / (window.sum() / 2) + 1e-9)
    extent = (0, seconds, 0, rate_hz / 2000)
    spectrogram.imshow(levels.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=_FLOOR_DB, vmax=0)
    spectrogram.set_ylabel("kHz", fontsize=7)
    for axis in (waveform, spectrogram):
        axis.set_xlim(0, seconds)
        axis.tick_params(labelsize=7)


def caption(applied: dict[str, dict[str, Any]]) -> str:
    """What was done to a view, in a few words."""
    words = {
        "polarity": lambda of: "polarity",
        "noise": lambda of: _noise(of["noise_to_signal"]),
        "gain": lambda of: f"gain {of['gain_db']:.1f} dB",
        "filter": lambda of: f"{'low' if of['is_lowpass'] else 'high'}-pass {of['cutoff_hz']:.0f} Hz",
        "delay": lambda of: f"delay {of['delay_ms']:.0f} ms",
        "pitch": lambda of: f"pitch {of['cents']:+.0f} cents",
        "reverb": lambda of: "reverb " + "/".join(f"{of[p]:.0f}" for p in ("reverberance", "damping", "room_scale")),
    }
    return ", ".join(words[name](parameters) for name, parameters in applied.items()) or "unchanged"


def _noise(noise_to_signal: float) -> str:
    return f"noise {20 * np.log10(noise_to_signal):.0f} dB" if noise_to_signal > 0 else "no noise"
