"""python -m docs.augmentations: measures every augmentation, draws it, and writes docs/augmentations.md."""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from clmr_tf.audio.isolation import IsolatedDecoder
from clmr_tf.augment import AugmentationChain
from clmr_tf.augment.views import caption, draw_sound, draw_views, make_views
from clmr_tf.config.augmentation import AUGMENTATION_NAMES, Range, augmentation_config
from clmr_tf.console import run_command, stdout
from clmr_tf.quiet_start import start_xla_quietly
from docs import augmentation_errors as errors
from tests.clmr_tf.augment.golden import AUDIO, RATE_HZ, read_clip

DOCS = Path(__file__).parent
CLIP = ("marine/industrial.ogg", 90_000)
HEAD = """# Augmentations
`python -m docs.augmentations` writes this page: it measures the errors and draws the pictures. To listen to views of
your own music, run `python -m clmr_tf.augment song.mp3 --out views`. The speed is in
[scaling.md](scaling.md#augmentations).

A view is a random crop, followed by these effects in this order, each with its own probability:
{order}.
Every view draws its parameters from its own seed with stateless operations, so they do not depend on batch, replica
or thread. Preset `released` follows the released code and `thesis` the text of the thesis;
`clmr_tf/config/augmentation.py` says where they differ. `none` is the crop only, and `only-NAME` applies one effect
to every first view. Every setting can be changed by name: `--augmentation-changes pitch.probability=0.5
'pitch.cents=[-500, 500]'`, `order=[...]`, `asymmetric=true` (augment only the first of two views, as in the published
ablation).

Everything is float32, whatever the Keras policy, with static shapes. The chain reports NaN or infinity in a clip (if
XLA compiles the chain, the training step checks for them first); the individual functions pass them through, in that
row only. The filters, the pitch shift and the reverb are computed only for the examples that get them.
"""
# Continues the section on the pitch shift.
TRANSIENTS = """\
Frames of 93 ms cannot separate two notes that close together; sox, with segments of 82 ms, is just as far off.

With the vocoder alone, clicks less than a frame apart were displaced by up to 17 ms, with sox by up to 4 ms.
What was tried; milliseconds are the root mean square distance of the energy from the clicks, over -700 to 700 cents:

| method | clicks | chords | kept |
|---|---|---|---|
| frames of 46 ms | 0.1 ms up to 13 a second, 2.6 at 16, 8 at 20 | 16 cents off | no |
| cutting and joining segments in time, as sox's `pitch` does | 3 to 32 ms | 24 cents off | no |
| transients shifted separately and faded over the vocoder's output | \
0.1 ms up to 20 a second; with noise 60 dB below the clicks 11 ms at 13 a second (sox 5 to 25) | 0.2 cents off | no |
| transients removed before the vocoder, shifted separately, and added | \
0.1 ms up to 36 a second, 3 at 45 (sox 4 to 7); with that noise 0.9 ms at 13 a second | 0.2 cents off | yes |

`tests/clmr_tf/augment/effects/test_pitch.py` checks the last one. It increases the CPU time of the chain of preset
`released` by 5.5 % (both versions alternating on one core, 40 times). Not solved: long drums and loud mixes, which go
through the vocoder, have peaks of 0.7 to 1.4 times the original afterwards (sox, which copies waveforms: 1.0), because
their phases change."""
# Continues the section on the reverb.
FREEVERB = """
- `C(z)`, eight parallel combs, is the sum of `1 / (z^n - g (1 - d) / (1 - d / z))`. The feedback is
  `g = 1 - 0.7^(1 - reverberance/100) * 0.02^(reverberance/100)`, and the low-pass in the loop has
  `d = 0.2 + 0.3 damping/100`. At 44,100 Hz `n` is 1116, 1188, 1277, 1356, 1422, 1491, 1557 and 1617 samples, times
  `0.1 + 0.9 room_scale/100`.
- `A(z)`, four all-passes in series, is the product of `z^-m / (1 - 0.5 z^-m) - 1`. At 44,100 Hz `m` is 225, 341, 441
  and 556 samples.
- These are the lengths of L. In R the first is 12 samples longer, the second 12 shorter, and so on alternately. At
  other sample rates all are scaled in proportion, then rounded."""


@dataclasses.dataclass(frozen=True)
class Effect:
    """The text of an augmentation's section.

    Attributes:
        definition: Its formula or method.
        reference: What it is compared with.
        changes: Settings for the picture.
        measure: Measures its error and returns a sentence.
        remark: Text after that sentence.
    """

    definition: str
    reference: str
    changes: tuple[str, ...]
    measure: Callable[[np.ndarray], str]
    remark: str = ""


EFFECTS = {
    "polarity": Effect("`-x`", "the formula", (), errors.measure_polarity),
    "noise": Effect(
        "`x + ratio * std(x) * n`, with n white Gaussian noise of variance 1",
        "the formula; torchaudio-augmentations 0.2.4 draws n with NumPy",
        ("noise.noise_to_signal=[0.01, 0.01]",),
        errors.measure_noise,
    ),
    "gain": Effect("`x * 10^(dB / 20)`", "the formula", ("gain.gain_db=[-12, -12]",), errors.measure_gain),
    "filter": Effect(
        "a Hann-windowed sinc with eight zero crossings on each side and unit gain at 0 Hz, and the first and last "
        "sample repeated beyond the edges; the high-pass is the clip minus the low-pass",
        "julius 0.2.7, which the released code uses",
        ("filter.lowpass_chance=0", "filter.highpass_cutoff_hz=[1000, 1000]"),
        errors.measure_filter,
        "Settings below 1 Hz or above half the sample rate are rejected; the functions `lowpass` and `highpass` clip "
        "the cutoff to the range from `lowest_cutoff_hz` to half the sample rate.",
    ),
    "delay": Effect(
        "`(x[t] + volume * x[t - d]) / 2`",
        "the formula, with the rounding of d in torchaudio-augmentations 0.2.4",
        ("delay.delay_ms=[400, 400]",),
        errors.measure_delay,
    ),
    "pitch": Effect(
        "resampled to another speed (band-limited, cubic B-spline on twofold oversampling), then restored to its "
        "tempo by a phase vocoder with frames of 93 ms. Phases continue from frame to frame by comparison with the "
        "frame one hop earlier, and are reset, at the right time, if a frame has a transient",
        "measures of the sound (cents, level, sharpness of transients, no aliasing), and sox's `pitch` on the same "
        "input",
        ("pitch.cents=[500, 500]",),
        errors.measure_pitch,
        TRANSIENTS,
    ),
    "reverb": Effect(
        "Freeverb: `x + 0.015 (L + R) / 2`, both channels as `A(z) C(z) x`, in one multiplication of the spectrum",
        "sox 14.4.2's `reverb` on mono",
        ("reverb.reverberance=[90, 90]", "reverb.damping=[20, 20]", "reverb.room_scale=[80, 80]"),
        errors.measure_reverb,
        FREEVERB,
    ),
}


def draw(name: str, effect: Effect, clip: np.ndarray, picture: Path) -> None:
    """Draws a clip before and after the augmentation."""
    chain = AugmentationChain(augmentation_config(f"only-{name}", effect.changes), RATE_HZ)
    drawn = chain.draw(np.zeros([1, 2], np.int32), np.ones(1, bool))
    view = chain.apply(clip[None], drawn)[0].numpy()
    figure, axes = plt.subplots(1, 4, figsize=(12, 1.9), layout="constrained")
    draw_sound(*axes[:2], clip, RATE_HZ, np.abs(clip).max())
    draw_sound(*axes[2:], view, RATE_HZ, np.abs(clip).max())
    axes[0].set_title("clip", fontsize=8, loc="left")
    parameters = {key: values[0].numpy() for key, values in drawn[name].items()}
    axes[2].set_title(caption({name: parameters}), fontsize=8, loc="left")
    figure.savefig(picture, dpi=75, metadata={"Software": None})
    plt.close(figure)


def section(name: str, effect: Effect, clip: np.ndarray) -> str:
    """The section of the page about one augmentation."""
    rows = ["| setting | `released` | `thesis` |", "|---|---|---|"]
    released, thesis = (getattr(augmentation_config(preset), name) for preset in ("released", "thesis"))
    for field in dataclasses.fields(released):
        values = (_value(getattr(part, field.name)) for part in (released, thesis))
        rows.append(f"| `{name}.{field.name}` | {' | '.join(values)} |")
    return "\n".join(
        [
            f"## {name}",
            f"{effect.definition[0].upper()}{effect.definition[1:]}. Compared with {effect.reference}.",
            effect.measure(clip),
            *([effect.remark] if effect.remark else []),
            "",
            *rows,
            "",
            f"![A clip without and with {name}](augmentations/{name}.png)",
            "",
        ]
    )


def _value(value: float | Range) -> str:
    if not isinstance(value, Range):
        return f"{value:g}"
    step = f", in steps of {value.step:g}" if value.step else ""
    return f"{value.minimum:g}" if value.minimum == value.maximum else f"{value.minimum:g} to {value.maximum:g}{step}"


def main(_: Sequence[str]) -> None:
    """Runs the command."""
    start_xla_quietly()
    clip = read_clip(*CLIP)
    (DOCS / "augmentations").mkdir(exist_ok=True)
    for name, effect in EFFECTS.items():
        draw(name, effect, clip, DOCS / "augmentations" / f"{name}.png")
    # The same as `python -m clmr_tf.augment pipelines/demo_data/audio/marine/industrial.ogg --num-views 4 --seed 2`.
    with IsolatedDecoder() as decoder:
        views = make_views(
            AUDIO / CLIP[0], augmentation_config("released"), decoder, num_views=4, seed=2, sample_rate_hz=RATE_HZ
        )
    draw_views(views, DOCS / "views.png")
    sections = [section(name, EFFECTS[name], clip) for name in AUGMENTATION_NAMES]
    page = "\n".join([HEAD.format(order=", ".join(AUGMENTATION_NAMES)), *sections])
    (DOCS / "augmentations.md").write_text(page, encoding="utf-8")
    stdout.print(f"Wrote {DOCS / 'augmentations.md'} and {len(EFFECTS) + 1} pictures", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
