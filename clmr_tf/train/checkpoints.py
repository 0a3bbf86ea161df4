"""Checkpoints: folders with checksums, which are complete or absent after a kill at any moment."""

import contextlib
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from clmr_tf.errors import ClmrError, is_disk_full
from clmr_tf.files import put_in_place, sha256_of, sync

logger = logging.getLogger(__name__)

CHECKSUMS_FILE = "checksums.json"
_FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{9,})")


def checkpoint_path(folder: Path, step: int) -> Path:
    """The checkpoint of a step in a folder of checkpoints; the names sort by step."""
    return folder / f"step-{step:09d}"


def step_of(path: Path) -> int:
    """The number of steps after which a checkpoint was saved."""
    return int(_NAME.fullmatch(path.name)[1])


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first; none if there is no such folder."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


@contextlib.contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Creates an empty folder for a checkpoint and renames it to `path` when the block ends without an error.

    Its files and the folder reach the disk before the rename, so `path` is complete even after a power cut. An
    existing checkpoint at `path` is replaced.

    Raises:
        OSError: If it cannot be written; what was at `path` stays.
    """
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    remove_remains(folder)
    draft = _hidden(path, "draft")
    try:
        draft.mkdir()
        yield draft
        put_in_place(draft, path, _hidden(path, "previous"))
        sync(folder.parent)
    finally:
        remove_remains(folder)


def discard(path: Path) -> None:
    """Removes a checkpoint; a kill during the removal leaves nothing that looks like a checkpoint."""
    removed = _hidden(path, "removed")
    path.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def remove_remains(folder: Path) -> None:
    """Removes what a killed process left half written or half removed; only the writer of the folder calls it."""
    for remains in folder.glob(".step-*"):
        path = folder / remains.stem[1:]
        if remains.suffix == ".previous" and not path.exists():
            with contextlib.suppress(OSError):
                remains.rename(path)
        else:
            shutil.rmtree(remains, ignore_errors=True)


def write_checksums(draft: Path, step: int) -> None:
    """Adds a file with the size and SHA-256 of every file in the draft of a checkpoint, and its own checksum."""
    files = {
        path.name: {"num_bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(draft.iterdir())
    }
    record = {"format_version": _FORMAT_VERSION, "step": step, "files": files}
    record["own_sha256"] = _own_sha256(record)
    (draft / CHECKSUMS_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, such as "state.index is missing"; None if it is intact."""
    name = CHECKSUMS_FILE
    try:
        record = json.loads((path / name).read_bytes())
        if record.pop("own_sha256") != _own_sha256(record):
            raise ValueError("changed, but still JSON")
        if (record["format_version"], record["step"]) != (_FORMAT_VERSION, step_of(path)):
            return f"{name} is not that of this step in format version {_FORMAT_VERSION}"
        for name, written in record["files"].items():
            if difference := _find_difference(path / name, **written):
                return f"{name} {difference}"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{CHECKSUMS_FILE} is truncated or has changed"
    return None


def _find_difference(path: Path, num_bytes: int, sha256: str) -> str | None:
    num_bytes_now = path.stat().st_size
    if num_bytes_now < num_bytes:
        return f"is truncated to {num_bytes_now} of {num_bytes} bytes"
    if num_bytes_now > num_bytes or sha256_of(path) != sha256:
        return "has changed since it was written"
    return None


def _hidden(path: Path, state: str) -> Path:
    return path.with_name(f".{path.name}.{state}")


def _own_sha256(record: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


BEST_FILE = "best.json"
METRICS_FILE = "metrics.json"
_PREFIX = "state"

Groups = Mapping[str, Mapping[str, tf.Variable]]
"""The content of a checkpoint: variables by name, in groups by name, such as "encoder"."""


def named_variables(variables: Sequence[keras.Variable]) -> dict[str, tf.Variable]:
    """Variables by the names that checkpoints use, such as "stem_convolution/kernel".

    Variables are listed explicitly, because TensorFlow does not find those of layers in lists of a Keras 3 model, among
    them the running statistics of batch normalisation.
    """
    names = ["/".join(variable.path.split("/")[-2:]) for variable in variables]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"Variables of one part must have different names. Received: {sorted(repeated)} repeatedly")
    return {name: variable.value for name, variable in zip(names, variables, strict=True)}


def restore_newest(folder: Path, groups: Groups) -> int | None:
    """Loads variables from the newest intact checkpoint in a folder, without changing the folder.

    Args:
        folder: The folder of the newest checkpoints or of the best one.
        groups: The variables to load: all that a checkpoint contains, or some of them.

    Returns:
        The number of steps after which it was saved; None if there is no checkpoint.

    Raises:
        ClmrError: If there are checkpoints and none can be read into the variables.
    """
    return _restore_newest(folder, _tracked(groups), damaged=set())


class Checkpoints:
    """The checkpoints of a run.

    A checkpoint is a folder such as `step-000000500`. It is renamed once it is complete, so after a kill or a power cut
    the previous one is still there. It holds checksums of its files; if they do not match, the previous checkpoint is
    used. The order of the data and the views are functions of the step and need no saving.

    Args:
        folder: Where they are kept; nothing else may write there.
        groups: All variables that a step changes: weights, running statistics, optimizer and others.
        keep: Number of newest checkpoints to keep.
        writes: False for a process that only restores while another one writes.
    """

    def __init__(self, folder: Path, groups: Groups, keep: int, *, writes: bool = True) -> None:
        self._folder = folder
        self._keep = keep
        self._writes = writes
        self._checkpoint = _tracked(groups)
        self._damaged: set[Path] = set()

    def restore(self) -> int:
        """Loads the newest intact checkpoint, and returns the number of steps done so far, 0 if there is none.

        Raises:
            ClmrError: If there are checkpoints and none can be read into the variables.
        """
        if self._writes:
            remove_remains(self._folder)
        return _restore_newest(self._folder, self._checkpoint, self._damaged) or 0

    def save(self, step: int, metrics: Mapping[str, float] | None = None) -> Path:
        """Saves the state after `step` steps, and then removes surplus and damaged checkpoints.

        Args:
            step: Steps done.
            metrics: Metrics of this step, if they will be logged: a run that is killed before that cannot compute them
                again.

        Raises:
            ClmrError: If it cannot be written; the message names the last good checkpoint, which stays.
        """
        path = checkpoint_path(self._folder, step)
        with self.explained_failure(f"The checkpoint of step {step} could not be written to {self._folder}"):
            with draft_of(path) as draft:
                self._checkpoint.write(str(draft / _PREFIX))
                if metrics is not None:
                    (draft / METRICS_FILE).write_text(json.dumps(metrics), encoding="utf-8")
                write_checksums(draft, step)
            others = [other for other in list_checkpoints(self._folder) if other != path]
            good = [other for other in others if other not in self._damaged]
            for unwanted in set(others) - set(good[: self._keep - 1]):
                discard(unwanted)
            self._damaged.clear()
        return path

    def metrics_of(self, step: int) -> dict[str, float] | None:
        """The metrics that were saved with the checkpoint of a step; None if there are none."""
        try:
            return json.loads((checkpoint_path(self._folder, step) / METRICS_FILE).read_bytes())
        except FileNotFoundError:
            return None

    def keep_best(self, step: int, best_folder: Path, record: Mapping[str, object]) -> None:
        """Copies the checkpoint of a step to the folder of the best one, with a record of why it is the best.

        The previous best is removed only when the new one is complete. On the same disk the files are hard links,
        which take no space until the original is removed.

        Args:
            step: A step that has a checkpoint.
            best_folder: Where the best is kept; nothing else may write there.
            record: JSON data that `find_best` returns.

        Raises:
            ClmrError: If it cannot be written; the previous best stays.
        """
        path = checkpoint_path(best_folder, step)
        with self.explained_failure(f"The best checkpoint, that of step {step}, could not be kept in {best_folder}"):
            with draft_of(path) as draft:
                for file in checkpoint_path(self._folder, step).iterdir():
                    _link_or_copy(file, draft / file.name)
                text = json.dumps({"step": step, **record}, indent=2) + "\n"
                (draft / BEST_FILE).write_text(text, encoding="utf-8")
            _discard_all_but(path)

    @contextlib.contextmanager
    def explained_failure(self, failure: str) -> Iterator[None]:
        """Turns errors of the disk and of TensorFlow into one sentence that names the last good checkpoint.

        Args:
            failure: The beginning of the sentence, such as "The log could not be written".

        Raises:
            ClmrError: In place of OSError and tf.errors.OpError.
        """
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            # TensorFlow's messages start with the operation and the file.
            reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0].rpartition("; ")[2]
            if is_disk_full(error):
                reason = "the disk is full"
            good = (path for path in list_checkpoints(self._folder) if find_damage(path) is None)
            newest = next(good, None)
            kept = f"the last good checkpoint is {newest.name}" if newest else "there is no good checkpoint before it"
            raise ClmrError(f"{failure} because {reason}; {kept}. Fix this, then rerun the command.") from error


def find_best(best_folder: Path) -> dict[str, Any] | None:
    """Finds the best checkpoint and cleans up its folder after a kill; only the writer of the folder calls it.

    Returns:
        The record of `Checkpoints.keep_best`, with the "step"; None if there is no intact one.
    """
    remove_remains(best_folder)
    # There are two if the process was killed before the previous one was removed.
    for path in list_checkpoints(best_folder):
        damage = find_damage(path)
        try:
            record = dict(json.loads((path / BEST_FILE).read_bytes()))
        except (OSError, ValueError, TypeError):
            damage = damage or f"{BEST_FILE} cannot be read"
        if damage is None:
            _discard_all_but(path)
            return record
        logger.warning("The best checkpoint %s is damaged (%s); it will be replaced.", path, damage)
    return None


def _discard_all_but(path: Path) -> None:
    for other in list_checkpoints(path.parent):
        if other != path:
            discard(other)


def _tracked(groups: Groups) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(**{name: dict(variables) for name, variables in groups.items()})


def _restore_newest(folder: Path, checkpoint: tf.train.Checkpoint, damaged: set[Path]) -> int | None:
    """Does the work of `restore_newest`; adds damaged checkpoints to `damaged`."""
    # Listed again each time, since another process may write and remove checkpoints at the same time.
    while path := next((path for path in list_checkpoints(folder) if path not in damaged), None):
        damage = find_damage(path)
        if damage is None and _read(checkpoint, path):
            return step_of(path)
        damaged.add(path)
        if path.exists():
            logger.warning("The checkpoint %s is damaged (%s); trying the previous one.", path, damage)
    if damaged:
        raise ClmrError(
            f"None of the {len(damaged)} checkpoints in {folder} can be restored; "
            "restore a copy of that folder, or delete it to start again."
        )
    return None


def _read(checkpoint: tf.train.Checkpoint, path: Path) -> bool:
    """Loads an intact checkpoint; False if it has been removed in the meantime."""
    try:
        checkpoint.read(str(path / _PREFIX)).expect_partial().assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        if not path.exists():
            return False
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise ClmrError(
            f"The checkpoint {path} does not fit the model ({reason}); "
            "use the settings and the version of the program that it was made with."
        ) from error
    return True


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        # Another disk, or one without hard links.
        shutil.copyfile(source, target)
