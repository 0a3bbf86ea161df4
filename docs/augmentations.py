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
from clmr_tf.augment.pictures import caption, draw_sound, draw_views
from clmr_tf.augment.views import make_views
from clmr_tf.config.augmentation import AUGMENTATION_NAMES, Range, augmentation_config
from clmr_tf.console import run_command, stdout
from clmr_tf.quiet_start import start_xla_quietly
from docs import augmentation_errors as errors
from tests.clmr_tf.augment.golden import AUDIO, RATE_HZ, read_clip

DOCS = Path(__file__).parent
CLIP = ("marine/industrial.ogg", 90_000)
HEAD = """# The augmentations
Written by `python -m docs.augmentations`, which measures the errors and draws the pictures. To hear them on music of
your own: `python -m clmr_tf.augment song.mp3 --out views`.

A view is a random crop and then, in this order and each with its probability:
{order}. Each view draws for itself, by stateless
operations from its own seed, whatever batch, replica or thread it is in. Preset `released` follows the released code,
`thesis` the text of the thesis; `clmr_tf/config/augmentation.py` says where they differ. `none` is the crop alone,
`only-NAME` one augmentation on every first view. Every setting can be changed by its name:
`--augmentation-changes pitch.probability=0.5 'pitch.cents=[-500, 500]'`, `order=[...]`, `asymmetric=true` (of two views
only the first is augmented, as in the published ablation).

Everything is float32 whatever the Keras policy, with static shapes. NaN or infinity in a clip is reported by the chain
(where XLA compiles the chain, by the training step before it); the functions alone hand it on, in its own row. The
filters, the pitch shift and the reverb are computed only for the examples that get them.
"""
# Continues the section of the reverb.
FREEVERB = """
- `C(z)`, eight parallel combs, is the sum of `1 / (z^n - g (1 - d) / (1 - d / z))`. What comes back after a round is
  `g = 1 - 0.7^(1 - reverberance/100) * 0.02^(reverberance/100)`, and the low-pass in the loop has
  `d = 0.2 + 0.3 damping/100`. At 44,100 Hz `n` is 1116, 1188, 1277, 1356, 1422, 1491, 1557 and 1617 samples, times
  `0.1 + 0.9 room_scale/100`.
- `A(z)`, four all-passes in series, is the product of `z^-m / (1 - 0.5 z^-m) - 1`. At 44,100 Hz `m` is 225, 341, 441
  and 556 samples.
- These are the lengths of L. In R the first is 12 samples longer, the second 12 shorter, and so on in turn. At another
  rate all are in proportion; then they are rounded."""


@dataclasses.dataclass(frozen=True)
class Effect:
    """What the page says of an augmentation.

    Attributes:
        definition: Its formula, in words.
        reference: What it is held to.
        changes: Settings for the picture.
        measure: Measures its error, and says it in a sentence.
        remark: What else there is to know.
    """

    definition: str
    reference: str
    changes: tuple[str, ...]
    measure: Callable[[np.ndarray], str]
    remark: str = ""


EFFECTS = {
    "polarity": Effect("`-x`", "the formula", (), errors.measure_polarity),
    "noise": Effect(
        "`x + ratio * std(x) * n`, with n white, Gaussian, of variance 1",
        "the formula; torchaudio-augmentations 0.2.4 draws n with NumPy",
        ("noise.noise_to_signal=[0.01, 0.01]",),
        errors.measure_noise,
    ),
    "gain": Effect("`x * 10^(dB / 20)`", "the formula", ("gain.gain_db=[-12, -12]",), errors.measure_gain),
    "filter": Effect(
        "a Hann-windowed sinc of eight zero crossings on each side and unit gain at 0 Hz, the edges continued by their "
        "own sample; the high-pass is the clip minus that",
        "julius 0.2.7, which the released code uses",
        ("filter.lowpass_chance=0", "filter.highpass_cutoff_hz=[1000, 1000]"),
        errors.measure_filter,
        "Settings below 1 Hz or above half the sample rate are refused; the functions `lowpass` and `highpass` lower a "
        "cutoff above half the sample rate to it, and raise one below `lowest_cutoff_hz` to that.",
    ),
    "delay": Effect(
        "`(x[t] + volume * x[t - d]) / 2`",
        "the formula, with the rounding of d in torchaudio-augmentations 0.2.4",
        ("delay.delay_ms=[400, 400]",),
        errors.measure_delay,
    ),
    "pitch": Effect(
        "played at another speed (band-limited, cubic B-spline on twofold oversampling), then brought back to its "
        "tempo by a phase vocoder of 93 ms frames, whose phases continue from frame to frame by comparison with what "
        "is one hop before, and start anew, at the right time, where a frame has an attack",
        "what is heard: cents, level, sharpness of attacks, nothing folded back; sox's `pitch` on the same input",
        ("pitch.cents=[500, 500]",),
        errors.measure_pitch,
        "So close, two notes are one that beats to frames of 93 ms; sox's pieces of 82 ms put them as far off.",
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
    """Draws a clip and what becomes of it."""
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
    """What the page says of one augmentation."""
    rows = ["| setting | `released` | `thesis` |", "|---|---|---|"]
    released, thesis = (getattr(augmentation_config(preset), name) for preset in ("released", "thesis"))
    for field in dataclasses.fields(released):
        values = (_value(getattr(part, field.name)) for part in (released, thesis))
        rows.append(f"| `{name}.{field.name}` | {' | '.join(values)} |")
    return "\n".join(
        [
            f"## {name}",
            f"{effect.definition[0].upper()}{effect.definition[1:]}. Held to {effect.reference}.",
            effect.measure(clip),
            *([effect.remark] if effect.remark else []),
            "",
            *rows,
            "",
            f"![A clip, and the same with {name}](augmentations/{name}.png)",
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
    # As `python -m clmr_tf.augment pipelines/demo_data/audio/marine/industrial.ogg --num-views 4 --seed 2` does it.
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
