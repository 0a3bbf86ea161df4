"""Checkpoints: what is saved, how a run starts from them, how many are kept."""

import errno
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from clmr_tf.errors import ClmrError

logger = logging.getLogger(__name__)


def named_variables(variables: Sequence[keras.Variable]) -> dict[str, tf.Variable]:
    """Variables by the names that checkpoints use, such as "stem_convolution/kernel".

    Every variable is listed by hand, because what TensorFlow finds by itself in a Keras 3 model leaves out
    layers in lists, and with them the running statistics of batch normalisation.
    """
    names = ["/".join(variable.path.split("/")[-2:]) for variable in variables]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"Variables of one part must have different names. Received: {sorted(repeated)} repeatedly")
    return {name: variable.value for name, variable in zip(names, variables, strict=True)}


def restore_newest(folder: Path, checkpoint: tf.train.Checkpoint) -> bool:
    """Loads the newest checkpoint in a folder that is whole; a damaged one gives way to the one before.

    Args:
        folder: Where `Checkpoints` keeps them.
        checkpoint: The variables to load; all of them must be there.

    Returns:
        Whether there was a checkpoint.

    Raises:
        ClmrError: If there are checkpoints and none can be read into the variables.
    """
    state = tf.train.get_checkpoint_state(str(folder))
    paths = list(reversed(state.all_model_checkpoint_paths)) if state else []
    for path in paths:
        try:
            checkpoint.restore(path).expect_partial().assert_existing_objects_matched()
            return True
        # TensorFlow reports damage as any of these, depending on where it lies.
        except (AssertionError, IndexError, RuntimeError, ValueError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines()[0]
            logger.warning("The checkpoint %s cannot be restored (%s); trying the one before.", path, reason)
    if paths:
        raise ClmrError(
            f"None of the {len(paths)} checkpoints in {folder} can be restored; "
            "bring back a copy of that folder, or delete it to train anew."
        )
    return False


class Checkpoints:
    """The checkpoints of a run: weights, running statistics, optimizer slots and the step.

    A checkpoint is written beside the others and named as the newest only once it is complete, so a kill while
    writing leaves the one before. The order of the data and the views are functions of the step and need no
    saving.

    Args:
        folder: Where they are kept; nothing else may write there.
        parts: The parts of the model by name, such as "encoder", all built.
        optimizer: Their optimizer, built.
        keep: Number of newest checkpoints to keep.
    """

    def __init__(self, folder: Path, parts: Mapping[str, keras.Model], optimizer: keras.Optimizer, keep: int) -> None:
        self._folder = folder
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        # The names of an optimizer's variables hold numbers that Keras counts up within a process.
        slots = {str(index): variable.value for index, variable in enumerate(optimizer.variables)}
        weights = {name: named_variables(part.variables) for name, part in parts.items()}
        self._checkpoint = tf.train.Checkpoint(**weights, optimizer=slots, step=self._step)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(folder), max_to_keep=keep, step_counter=self._step
        )

    def restore(self) -> int:
        """Loads the newest checkpoint that is whole, and returns the number of steps done so far, 0 if none.

        Raises:
            ClmrError: If there are checkpoints and none can be read into the model.
        """
        self._remove_drafts()
        restore_newest(self._folder, self._checkpoint)
        return int(self._step.numpy())

    def save(self, step: int) -> Path:
        """Saves the state after `step` steps.

        Raises:
            ClmrError: If it cannot be written; the checkpoint before stays the newest.
        """
        self._step.assign(step)
        try:
            return Path(self._manager.save(checkpoint_number=step))
        except (OSError, tf.errors.OpError) as error:
            is_full = os.strerror(errno.ENOSPC) in str(error)
            reason = "the disk is full" if is_full else str(error).strip().splitlines()[0]
            newest = self._manager.latest_checkpoint
            kept = f"{Path(newest).name} before it is complete" if newest else "there is none before it"
            raise ClmrError(
                f"The checkpoint of step {step} could not be written to {self._folder} because {reason}; {kept}. "
                "Mend that and start the same command again."
            ) from error
        finally:
            self._remove_drafts()

    def _remove_drafts(self) -> None:
        """Removes what a save that failed or was killed has left; TensorFlow gives it this name."""
        for draft in self._folder.glob("*_temp"):
            shutil.rmtree(draft, ignore_errors=True)
