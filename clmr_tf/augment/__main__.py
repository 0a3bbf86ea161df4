"""python -m clmr_tf.augment: makes augmented views of a recording, to listen to and to look at.

python -m clmr_tf.augment song.mp3 --out views --num-views 8 --seed 1
"""

import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from clmr_tf.config.augmentation import augmentation_config
from clmr_tf.config.command_line import parse_command
from clmr_tf.console import printable, run_command, stderr, stdout
from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically

if TYPE_CHECKING:
    from clmr_tf.augment.views import Views

_MAX_NUM_VIEWS = 100
_PARAMETERS_FILE = "views.json"
_PICTURE_FILE = "views.png"


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Settings of the command."""

    recording: tyro.conf.Positional[Path | None] = None
    """Audio file of any format and sample rate, at least as long as a clip."""
    out: Path = Path("views")
    """Output folder: crops and views as WAV, a picture, and the drawn parameters. Created if necessary; existing files
    are replaced."""
    num_views: int = 8
    """Number of views, each from its own crop, from 1 to 100."""
    seed: int = 42
    """Seed of the crops and parameters, an integer from 0 to 2^31 - 1; the same seed gives the same views."""
    augmentation: str = "released"
    """Augmentation preset: "released", "thesis", "none", or a single augmentation such as "only-reverb"."""
    augmentation_changes: tuple[str, ...] = ()
    """Changes to the preset, each NAME=VALUE: `pitch.probability=1`, `pitch.cents=[-500, 500]`."""
    sample_rate_hz: Literal[22050, 16000, 8000] = 22050
    """Sample rate of the views in Hz."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid values."""
        if not 1 <= self.num_views <= _MAX_NUM_VIEWS:
            raise UsageError(f"--num-views must be from 1 to {_MAX_NUM_VIEWS}; received {self.num_views}.")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"--seed must be between 0 and 2147483647; received {self.seed}.")
        augmentation_config(self.augmentation, self.augmentation_changes)


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        AugmentConfig,
        arguments,
        program="python -m clmr_tf.augment",
        description="Makes augmented views of a recording, as in training.",
    )
    if config.recording is None:
        raise UsageError("No recording was given; give an audio file, as in `python -m clmr_tf.augment song.mp3`.")
    folder = config.out.expanduser()
    _check_output(folder, config.num_views)
    # Imported only once the command line is valid: TensorFlow takes seconds to load.
    from clmr_tf.audio.decoding import flaws_of
    from clmr_tf.audio.isolation import IsolatedDecoder
    from clmr_tf.augment.views import draw_views, make_views
    from clmr_tf.quiet_start import start_xla_quietly

    start_xla_quietly()
    with IsolatedDecoder() as decoder:
        views = make_views(
            config.recording.expanduser(),
            augmentation_config(config.augmentation, config.augmentation_changes),
            decoder,
            num_views=config.num_views,
            seed=config.seed,
            sample_rate_hz=config.sample_rate_hz,
        )
    for flaw in flaws_of(is_silent=views.is_silent, lost_seconds=views.lost_seconds):
        stderr.print(f"warning: {printable(str(config.recording))} {flaw}.", style="yellow", markup=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from error
    _write_sounds(views, folder)
    record = {
        "recording": config.recording.name,
        "seed": config.seed,
        "augmentation": config.augmentation,
        "augmentation_changes": list(config.augmentation_changes),
        "sample_rate_hz": config.sample_rate_hz,
        "is_silent": views.is_silent,
        "lost_seconds": round(views.lost_seconds, 3),
        "views": views.parameters,
    }
    write_atomically(folder / _PARAMETERS_FILE, json.dumps(record, indent=2) + "\n")
    draw_views(views, folder / _PICTURE_FILE)
    stdout.print(
        f"Wrote {config.num_views} crops and their views, {_PICTURE_FILE} and {_PARAMETERS_FILE} to {folder}.",
        markup=False,
    )


def _sound_files(first: int, last: int) -> list[str]:
    """File names of the crops and views with these numbers."""
    return [name for number in range(first, last + 1) for name in (f"crop-{number}.wav", f"view-{number}.wav")]


def _check_output(folder: Path, num_views: int) -> None:
    """Raises UsageError if the folder is a file, or a file to be written is a folder."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another --out.")
    for name in (*_sound_files(1, num_views), _PARAMETERS_FILE, _PICTURE_FILE):
        if (folder / name).is_dir():
            raise UsageError(f"{folder / name} is a folder; move it away or choose another --out.")


def _write_sounds(views: "Views", folder: Path) -> None:
    """Writes crops and views, and removes those of an earlier run with more views."""
    import soundfile

    num_views = len(views.views)
    sounds = (sound for pair in zip(views.crops, views.views, strict=True) for sound in pair)
    for name, samples in zip(_sound_files(1, num_views), sounds, strict=True):
        wav = io.BytesIO()
        # Floats, since a view may exceed full scale.
        soundfile.write(wav, samples, views.sample_rate_hz, format="WAV", subtype="FLOAT")
        write_atomically(folder / name, wav.getvalue())
    for name in _sound_files(num_views + 1, _MAX_NUM_VIEWS):
        if (folder / name).is_file():
            (folder / name).unlink()


if __name__ == "__main__":
    sys.exit(run_command(main))
