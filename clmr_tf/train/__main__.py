"""python -m clmr_tf.train: trains an encoder on a corpus or a folder of music.

    python -m clmr_tf.train                                      on the demo corpus
    python -m clmr_tf.train --corpus ~/Music --workdir runs/mine
    python -m clmr_tf.train --config runs/mine/config.json       with the settings of an earlier run

The same command resumes the run.
"""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clmr_tf.config.command_line import parse_command
from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command, shown_progress, stdout

if TYPE_CHECKING:
    from clmr_tf.train import callbacks


def _words_of(progress: "callbacks.Progress") -> str | None:
    """The metrics of the last step, if they were read."""
    if progress.metrics is None:
        return None
    words = f"loss {progress.metrics['loss']:.3f}"
    for name in ("contrastive_accuracy", "accuracy"):
        if name in progress.metrics:
            words += f", {name.replace('_', ' ')} {progress.metrics[name]:.2f}"
    if progress.clips_per_second is not None:
        words += f", {progress.clips_per_second:.1f} clips/s"
    return words


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        TrainConfig,
        arguments,
        program="python -m clmr_tf.train",
        description="Trains an encoder on music, with or without labels. Rerun the same command to resume.",
    )
    # Imported after the command line is checked, because TensorFlow takes seconds to load.
    from clmr_tf.train.run import train
    from clmr_tf.train.run_folder import ends_with_schedule

    with shown_progress() as show:

        def report(progress: "callbacks.Progress") -> None:
            words = _words_of(progress)
            line = words and f"step {progress.step} of {progress.num_steps}: {words}"
            show(progress.step, progress.num_steps, words, line)

        outcome = train(config, report)
    if outcome.first_step >= outcome.num_steps:
        if outcome.ended_early:
            advice = "--early-stopping ended it; export its best checkpoint"
        elif ends_with_schedule(config):
            advice = (
                "its cosine schedule reached zero at the last step, so it cannot be continued; use another --workdir, "
                "with --decay-steps if you may want to extend the run later"
            )
        else:
            longer = "--epochs" if config.epochs else "--steps"
            advice = f"use more {longer} to continue it, or another --workdir to start a new run"
        stdout.print(f"The run in {outcome.workdir} already has {outcome.num_steps} steps; {advice}.", markup=False)
        return
    early = ", where --early-stopping ended it," if outcome.ended_early else ""
    best = " --checkpoint best" if config.has_labels else ""
    stdout.print(
        f"Trained to step {outcome.num_steps}{early} in {outcome.workdir}. Next:\n"
        f"  tensorboard --logdir {shlex.quote(str(outcome.workdir))}\n"
        f"  python -m clmr_tf.export --model {shlex.quote(str(outcome.workdir))}{best}",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
