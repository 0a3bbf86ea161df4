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

from clmr_tf.augment import AugmentationChain, add_noise, delay, gain, highpass, lowpass, pitch_shift, polarity, reverb
from clmr_tf.augment.pictures import caption, draw_sound, draw_views
from clmr_tf.augment.views import make_views
from clmr_tf.augmentation_changes import augmentation_config
from clmr_tf.augmentation_config import AUGMENTATION_NAMES, Range
from clmr_tf.console import results, run_command
from clmr_tf.xla_start import start_xla_quietly
from tests.clmr_tf.augment.golden import AUDIO, load_golden, read_clip
from tests.reference.pitch_measures import cents_off, click_spread_ms, click_train, sines

DOCS = Path(__file__).parent
RATE_HZ = 22_050
CLIP = ("marine/industrial.ogg", 90_000)
CHORD_HZ = (261.63, 329.63, 392.0)
HEAD = """# The augmentations
Written by `python -m docs.augmentations`, which measures the errors and draws the pictures. To hear them on music of
your own: `python -m clmr_tf.augment song.mp3 --out views`.

A view is a random crop and then, in this order and each with its probability:
{order}. Each view draws for itself, by stateless
operations from its own seed, whatever batch, replica or thread it is in. Preset `released` follows the released code,
`thesis` the text of the thesis; `clmr_tf/augmentation_config.py` says where they differ. `none` is the crop alone,
`only-NAME` one augmentation on every first view. Every setting can be changed by its name:
`--augmentation-changes pitch.probability=0.5 'pitch.cents=[-500, 500]'`, `order=[...]`, `asymmetric=true` (of two views
only the first is augmented, as in the published ablation).

Everything is float32 whatever the Keras policy, with static shapes. A clip that holds NaN or infinity is an error. The
filters, the pitch shift and the reverb are computed only for the examples that get them.
"""


@dataclasses.dataclass(frozen=True)
class Effect:
    """What the page says of an augmentation.

    Attributes:
        definition: Its formula, in words.
        reference: What it is held to.
        changes: Settings for the picture.
        measure: Measures its error, and says it in a sentence.
    """

    definition: str
    reference: str
    changes: tuple[str, ...]
    measure: Callable[[np.ndarray], str]


def measure_polarity(clip: np.ndarray) -> str:
    """Largest difference to the formula."""
    return _difference(polarity(clip[None])[0].numpy(), -clip)


def measure_noise(clip: np.ndarray) -> str:
    """The ratio that comes out, against the one asked for."""
    ratios = np.geomspace(1e-4, 1e-2, 16).astype(np.float32)
    clips = np.tile(clip, [16, 1])
    noise = add_noise(clips, ratios, np.arange(32, dtype=np.int32).reshape(16, 2)).numpy().astype(np.float64) - clips
    off = np.abs(noise.std(axis=1) / clips.std(axis=1) / ratios - 1).max()
    return f"Measured ratio within {100 * off:.1f} % of the drawn one (16 ratios from 40 to 80 dB)."


def measure_gain(clip: np.ndarray) -> str:
    """Largest difference to the formula."""
    return _difference(gain(clip[None], [-13.7])[0].numpy(), clip * 10 ** (-13.7 / 20))


def measure_filter(clip: np.ndarray) -> str:
    """Largest difference to julius, over all golden numbers of music."""
    golden, clips = load_golden("reference_filters_music")
    kept, errors = golden.pop("kept_samples"), []
    for key, expected in golden.items():
        number, name, cutoff = key.split("_")
        audio = clips[int(number.removeprefix("clip"))]
        received = {"lowpass": lowpass, "highpass": highpass}[name](audio[None], [float(cutoff)], RATE_HZ)[0].numpy()
        errors.append(np.abs(received[kept] - expected).max() / np.abs(audio).max())
    return f"Largest error on music, {len(errors)} filters, edges included: {max(errors):.0e} of the peak."


def measure_delay(clip: np.ndarray) -> str:
    """Largest difference to the formula."""
    expected = clip.astype(np.float64)
    expected[7_717:] += 0.5 * clip[:-7_717]
    return _difference(delay(clip[None], [350.0], [0.5], RATE_HZ)[0].numpy(), expected / 2)


def measure_pitch(_: np.ndarray) -> str:
    """Cents of a chord, spread of clicks, and transparency at 0 cents."""
    golden, _ = load_golden("reference_pitch_clicks")
    cents = golden["cents"].astype(np.float32)
    tiled = [np.tile(np.asarray(audio, np.float32), [len(cents), 1]) for audio in (sines(CHORD_HZ), click_train())]
    chords, clicks = (pitch_shift(clips, cents, RATE_HZ).numpy() for clips in tiled)
    off = [
        abs(cents_off(chord, note * 2 ** (shift / 1200)))
        for chord, shift in zip(chords, cents, strict=True)
        for note in CHORD_HZ
    ]
    spread, of_sox = [click_spread_ms(samples) for samples in clicks], golden["spread_ms"]
    clip = read_clip(*CLIP)
    change = pitch_shift(clip[None], [0.0], RATE_HZ)[0].numpy() - clip
    silence_db = 10 * np.log10(np.mean(change**2) / np.mean(clip**2))
    return (
        f"Notes of a chord within {max(off):.1f} cents over ±700 cents. The energy of five clicks a second stays "
        f"within {max(spread):.1f} ms of the clicks (sox: {min(of_sox):.0f} to {max(of_sox):.0f} ms). "
        f"At 0 cents {-silence_db:.0f} dB signal to error."
    )


def measure_reverb(_: np.ndarray) -> str:
    """Relative error to sox over the cube of parameters."""
    golden, clips = load_golden("reference_reverb_music")
    kept = golden.pop("kept_samples")
    audio = np.array([np.float32(0.2) * clips[int(key[4])] for key in golden])
    percents = np.array([key.split("_")[1:] for key in golden], np.float32).T
    received = reverb(audio, *percents, RATE_HZ).numpy()[:, kept]
    errors = [
        np.linalg.norm(row - expected) / np.linalg.norm(expected)
        for row, expected in zip(received, golden.values(), strict=True)
    ]
    return f"Relative error on music over a cube of {len(errors)} settings: at most {max(errors):.0e} (L2)."


def _difference(received: np.ndarray, expected: np.ndarray) -> str:
    return f"Largest error: {np.abs(received - expected).max() / np.abs(expected).max():.0e} of the peak."


EFFECTS = {
    "polarity": Effect("`-x`", "the formula", (), measure_polarity),
    "noise": Effect(
        "`x + ratio * std(x) * n`, with n white, Gaussian, of variance 1",
        "the formula; torchaudio-augmentations 0.2.4 draws n with NumPy",
        ("noise.noise_to_signal=[0.01, 0.01]",),
        measure_noise,
    ),
    "gain": Effect("`x * 10^(dB / 20)`", "the formula", ("gain.gain_db=[-12, -12]",), measure_gain),
    "filter": Effect(
        "a Hann-windowed sinc of eight zero crossings on each side and unit gain at 0 Hz, the edges continued by their "
        "own sample; the high-pass is the clip minus that",
        "julius 0.2.7, which the released code uses",
        ("filter.lowpass_chance=0", "filter.highpass_cutoff_hz=[1000, 1000]"),
        measure_filter,
    ),
    "delay": Effect(
        "`(x[t] + volume * x[t - d]) / 2`",
        "the formula, with the rounding of d in torchaudio-augmentations 0.2.4",
        ("delay.delay_ms=[400, 400]",),
        measure_delay,
    ),
    "pitch": Effect(
        "played at another speed (band-limited, cubic B-spline on twofold oversampling), then brought back to its "
        "tempo by a phase vocoder of 93 ms frames, whose phases continue from frame to frame by comparison with what "
        "is one hop before, and start anew, at the right time, where a frame has an attack",
        "what is heard: cents, level, sharpness of attacks, nothing folded back; sox's `pitch` on the same input",
        ("pitch.cents=[500, 500]",),
        measure_pitch,
    ),
    "reverb": Effect(
        "Freeverb: the clip plus two channels of eight combs and four all-passes, averaged, as one multiplication of "
        "the spectrum by the closed form of the response",
        "sox 14.4.2's `reverb` on mono",
        ("reverb.reverberance=[90, 90]", "reverb.damping=[20, 20]", "reverb.room_scale=[80, 80]"),
        measure_reverb,
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
    sections = []
    for name in AUGMENTATION_NAMES:
        draw(name, EFFECTS[name], clip, DOCS / "augmentations" / f"{name}.png")
        sections.append(section(name, EFFECTS[name], clip))
    # As `python -m clmr_tf.augment pipelines/demo_data/audio/marine/industrial.ogg --num-views 4 --seed 2` does it.
    views = make_views(AUDIO / CLIP[0], augmentation_config("released"), num_views=4, seed=2, sample_rate_hz=RATE_HZ)
    draw_views(views, DOCS / "views.png")
    page = "\n".join([HEAD.format(order=", ".join(AUGMENTATION_NAMES)), *sections])
    (DOCS / "augmentations.md").write_text(page, encoding="utf-8")
    results.print(f"Wrote {DOCS / 'augmentations.md'} and {len(sections) + 1} pictures", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
