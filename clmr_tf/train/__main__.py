"""python -m clmr_tf.train: learns a musical representation from a folder of music.

    python -m clmr_tf.train                                      on the music that comes with the project
    python -m clmr_tf.train --corpus ~/Music --workdir runs/mine
    python -m clmr_tf.train --config runs/mine/config.json       with the settings of an earlier run

The same command again goes on where the run stopped.
"""

import shlex
import sys
import time
from collections.abc import Sequence

from clmr_tf.config.command_line import parse_command
from clmr_tf.config.train import TrainConfig
from clmr_tf.console import progress_bar, run_command, stderr, stdout

_SECONDS_BETWEEN_LINES = 30.0


class ProgressReport:
    """Shows how far the training is: a bar on a terminal, a line every half minute elsewhere."""

    def __init__(self) -> None:
        self._last_line = -_SECONDS_BETWEEN_LINES
        self._bar = progress_bar()
        self._task = self._bar.add_task("training", total=None)

    def __enter__(self) -> "ProgressReport":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, step: int, num_steps: int, scalars: dict[str, float] | None) -> None:
        """Takes the number of steps done and of those to do, and the scalars where the step was logged."""
        # Not before the first step: the preparation of a corpus has a bar of its own.
        self._bar.start()
        self._bar.update(self._task, completed=step, total=num_steps)
        if scalars is None:
            return
        words = f"loss {scalars['loss']:.3f}"
        for name in ("contrastive_accuracy", "accuracy"):
            words += f", {name.replace('_', ' ')} {scalars[name]:.2f}" if name in scalars else ""
        if "clips_per_second" in scalars:
            words += f", {scalars['clips_per_second']:.1f} clips/s"
        self._bar.update(self._task, description=words)
        if not stderr.is_terminal and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            stderr.print(f"step {step} of {num_steps}: {words}")
            self._last_line = time.monotonic()


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        TrainConfig,
        arguments,
        program="python -m clmr_tf.train",
        description="Learns a representation of music from audio, with or without labels. The same command resumes.",
    )
    # After the command line is known to be right: TensorFlow takes seconds to load.
    from clmr_tf.train.run import train
    from clmr_tf.train.run_folder import ends_with_schedule

    with ProgressReport() as report:
        outcome = train(config, report)
    if outcome.first_step >= outcome.num_steps:
        if outcome.ended_early:
            advice = "its validation loss had not fallen for --early-stopping validations; export its best checkpoint"
        elif ends_with_schedule(config):
            advice = (
                "its learning rate has reached zero with the last of them, by --schedule cosine, so it cannot go on; "
                "give another --workdir, with --decay-steps for a run that may be made longer later"
            )
        else:
            longer = "--epochs" if config.epochs else "--steps"
            advice = f"give more {longer} to go on, or another --workdir to begin anew"
        stdout.print(f"The run in {outcome.workdir} has {outcome.num_steps} steps already; {advice}.", markup=False)
        return
    early = ", where its validation loss had not fallen for long," if outcome.ended_early else ""
    best = " --checkpoint best" if config.has_labels else ""
    stdout.print(
        f"Trained to step {outcome.num_steps}{early} in {outcome.workdir}. Next:\n"
        f"  tensorboard --logdir {shlex.quote(str(outcome.workdir))}\n"
        f"  python -m clmr_tf.export --model {shlex.quote(str(outcome.workdir))}{best}",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
