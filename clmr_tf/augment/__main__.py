"""python -m clmr_tf.augment: makes views of a recording, to hear and to see what a model is trained on.

python -m clmr_tf.augment song.mp3 --out views --num-views 8 --seed 1
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from clmr_tf.augment.view_folder import (
    MAX_NUM_VIEWS,
    PARAMETERS_FILE,
    PICTURE_FILE,
    check_can_be_written,
    make_folder,
    remove_sounds_beyond,
)
from clmr_tf.config.augmentation import augmentation_config
from clmr_tf.config.command_line import parse_command
from clmr_tf.console import printable, run_command, stderr, stdout
from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Settings of the command."""

    recording: tyro.conf.Positional[Path | None] = None
    """Audio file of any format and sample rate, at least as long as a clip."""
    out: Path = Path("views")
    """Folder for crops and views as WAV, a picture and the drawn parameters. Created if necessary; existing files are
    replaced."""
    num_views: int = 8
    """Number of views, each of its own crop, from 1 to 100."""
    seed: int = 42
    """Seed of crops and parameters, a whole number from 0 to 2^31 - 1; the same seed gives the same views."""
    augmentation: str = "released"
    """Augmentation preset: "released", "thesis", "none", or a single one such as "only-reverb"."""
    augmentation_changes: tuple[str, ...] = ()
    """Changes to the preset, each NAME=VALUE: `pitch.probability=1`, `pitch.cents=[-500, 500]`."""
    sample_rate_hz: Literal[22050, 16000, 8000] = 22050
    """Sample rate of the views in Hz."""

    def __post_init__(self) -> None:
        """Raises UsageError, one sentence, for values that cannot be."""
        if not 1 <= self.num_views <= MAX_NUM_VIEWS:
            raise UsageError(f"--num-views must be from 1 to {MAX_NUM_VIEWS}; received {self.num_views}.")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"--seed must be between 0 and 2147483647; received {self.seed}.")
        augmentation_config(self.augmentation, self.augmentation_changes)


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        AugmentConfig,
        arguments,
        program="python -m clmr_tf.augment",
        description="Makes views of a recording, as training makes them.",
    )
    if config.recording is None:
        raise UsageError("No recording was given; name an audio file, as in `python -m clmr_tf.augment song.mp3`.")
    folder = config.out.expanduser()
    check_can_be_written(folder, config.num_views)
    # After the command line is known to be right: TensorFlow takes seconds to load.
    from clmr_tf.audio.decoding import flaws_of
    from clmr_tf.audio.isolation import IsolatedDecoder
    from clmr_tf.augment.pictures import draw_views
    from clmr_tf.augment.views import make_views
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
    make_folder(folder)
    views.write_sounds(folder)
    remove_sounds_beyond(folder, config.num_views)
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
    write_atomically(folder / PARAMETERS_FILE, json.dumps(record, indent=2) + "\n")
    draw_views(views, folder / PICTURE_FILE)
    stdout.print(
        f"Wrote {config.num_views} crops and their views, {PICTURE_FILE} and {PARAMETERS_FILE} to {folder}.",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
