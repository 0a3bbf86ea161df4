"""Computes the golden numbers of the augmentations with the originals; no test runs this.

    pip install julius==0.2.7 torch soundfile numpy; apt-get install sox
    python -m tests.golden.make

julius is what the released code filters with, sox what it shifts the pitch and reverberates with.
"""

import itertools
import subprocess
import tempfile
from pathlib import Path

import julius
import numpy as np
import soundfile
import torch

from tests.reference.pitch_measures import NUM_SAMPLES, RATE_HZ, click_spread_ms, click_train, click_width_ms

HERE = Path(__file__).parent
AUDIO = HERE.parents[1] / "pipelines" / "demo_data" / "audio"
# Clips of the demo corpus: file and first sample.
CLIPS = (("flare/forest-theme.ogg", 200_000), ("askyel/terminal.ogg", 150_000), ("marine/industrial.ogg", 90_000))
CUTOFFS_HZ = {"lowpass": (2200, 2777, 4000), "highpass": (200, 333, 1200)}
# Any louder, and sox clips what the longest tails add up to.
REVERB_LEVEL = np.float32(0.2)
REVERB_CUBE = tuple(itertools.product((0, 50, 99), repeat=3))
PITCH_CENTS = (-700, -400, -100, 100, 400, 700)
CLICKS_PER_SECOND = (2.5, 5, 10, 13)
CLICK_RATE_CENTS = (-700, -500, -333, -100, 100, 333, 500, 700)
# Of an output, these samples are kept: both edges, and one in 29 between them.
KEPT = np.unique(
    np.concatenate([np.arange(500), np.arange(0, NUM_SAMPLES, 29), np.arange(NUM_SAMPLES - 500, NUM_SAMPLES)])
)


def read_clip(file: str, first_sample: int) -> np.ndarray:
    samples, rate = soundfile.read(AUDIO / file, NUM_SAMPLES, first_sample, dtype="float32")
    assert rate == RATE_HZ and len(samples) == NUM_SAMPLES
    return samples


def sox(samples: np.ndarray, *effect: object) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        before, after = f"{folder}/before.wav", f"{folder}/after.wav"
        soundfile.write(before, samples, RATE_HZ, subtype="FLOAT")
        float_output = ["-e", "floating-point", "-b", "32"]
        subprocess.run(["sox", "-V1", before, *float_output, after, *map(str, effect)], check=True)
        return soundfile.read(after, dtype="float32")[0]


def spreads_and_widths_ms(clicks_per_second: float, cents: tuple[int, ...]) -> np.ndarray:
    """How far and how wide sox spreads the clicks of a train, [2, cents]."""
    clicks = click_train(clicks_per_second=clicks_per_second)
    shifted = [sox(clicks, "pitch", shift, "rate", RATE_HZ) for shift in cents]
    shifted = [np.pad(samples[:NUM_SAMPLES], (0, max(0, NUM_SAMPLES - len(samples)))) for samples in shifted]
    measures = (click_spread_ms, click_width_ms)
    return np.array([[measure(samples, clicks_per_second) for samples in shifted] for measure in measures])


def main() -> None:
    clips = [read_clip(*clip) for clip in CLIPS]
    origin = {
        "clip_files": np.array([file for file, _ in CLIPS]),
        "clip_first_samples": np.array([first for _, first in CLIPS]),
        "kept_samples": KEPT,
    }
    filtered = {
        f"clip{number}_{name}_{cutoff}": getattr(julius, f"{name}_filter")(
            torch.tensor(clip), cutoff / RATE_HZ
        ).numpy()[KEPT]
        for number, clip in enumerate(clips)
        for name, cutoffs in CUTOFFS_HZ.items()
        for cutoff in cutoffs
    }
    np.savez_compressed(HERE / "reference_filters_music.npz", **origin, **filtered)

    # The one mono channel of sox is the average of the two wet ones.
    reverberated = {
        f"clip{number % len(clips)}_{'_'.join(map(str, cube))}": sox(
            REVERB_LEVEL * clips[number % len(clips)], "reverb", *cube
        )[KEPT]
        for number, cube in enumerate(REVERB_CUBE)
    }
    np.savez_compressed(HERE / "reference_reverb_music.npz", **origin, **reverberated)

    spread_ms, width_ms = spreads_and_widths_ms(5, PITCH_CENTS)
    np.savez_compressed(
        HERE / "reference_pitch_clicks.npz", cents=np.array(PITCH_CENTS), spread_ms=spread_ms, width_ms=width_ms
    )
    by_rate = np.array([spreads_and_widths_ms(rate, CLICK_RATE_CENTS) for rate in CLICKS_PER_SECOND])
    np.savez_compressed(
        HERE / "reference_pitch_click_rates.npz",
        clicks_per_second=np.array(CLICKS_PER_SECOND),
        cents=np.array(CLICK_RATE_CENTS),
        spread_ms=by_rate[:, 0],
        width_ms=by_rate[:, 1],
    )


if __name__ == "__main__":
    main()
