"""A checkpoint on disk: a folder that is whole once it has its name, and that shows if it no longer is."""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from clmr_tf.files import put_in_place, sync

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
    """Makes an empty folder to write a checkpoint into, which becomes `path` when the block ends without an error.

    Before it is renamed, its files and itself have reached the disk, so a folder called `path` is whole even if
    the power goes. A checkpoint that has this path already is replaced.

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
    """Removes a checkpoint; a kill meanwhile leaves nothing that looks like one."""
    removed = _hidden(path, "removed")
    path.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def remove_remains(folder: Path) -> None:
    """Removes what a kill has left half written, half replaced or half removed; only for the one who writes there."""
    for remains in folder.glob(".step-*"):
        path = folder / remains.stem[1:]
        if remains.suffix == ".previous" and not path.exists():
            with contextlib.suppress(OSError):
                remains.rename(path)
        else:
            shutil.rmtree(remains, ignore_errors=True)


def write_checksums(draft: Path, step: int) -> None:
    """Adds the file with the size and the SHA-256 of every file that the draft of a checkpoint holds, and its own."""
    files = {path.name: {"num_bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(draft.iterdir())}
    record = {"format_version": _FORMAT_VERSION, "step": step, "files": files}
    record["own_sha256"] = _own_sha256(record)
    (draft / CHECKSUMS_FILE).write_text(json.dumps(record, indent=2), encoding="utf-8")


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, such as "state.index is missing"; None if it is as it was written."""
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
    if num_bytes_now > num_bytes or _sha256(path) != sha256:
        return "has changed since it was written"
    return None


def _hidden(path: Path, state: str) -> Path:
    return path.with_name(f".{path.name}.{state}")


def _own_sha256(record: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
