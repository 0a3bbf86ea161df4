"""The folder of a run: its configuration, its record, its encoder, and the lock against other processes."""

import contextlib
import dataclasses
import json
import logging
import platform
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

from clmr_tf import __version__
from clmr_tf.config.command_line import from_json, to_json
from clmr_tf.config.train import CHANGEABLE_ON_RESUME, TrainConfig
from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import UsageError
from clmr_tf.files import exclusive_lock, refuse_pattern, writable_or_usage_error, write_atomically
from clmr_tf.hardware import hardware
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.clip_encoder import ClipEncoder, dtype_policy
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.heads import Head
from clmr_tf.models.projector import build_classifier
from clmr_tf.train.checkpoints import named_variables, restore_newest

logger = logging.getLogger(__name__)

_TREE = Path(__file__).resolve().parents[2]


def git_revision(tree: Path = _TREE) -> str | None:
    """Revision of the source tree, with "-changed" if files differ from it; None if it is not a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tree), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # A repository around it, such as one that contains the virtual environment, belongs to another project.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != tree.resolve():
            return None
        return git("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=-changed")
    except (OSError, subprocess.SubprocessError):
        return None


CONFIG_FILE = "config.json"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
BEST = "best"
NONFINITE = "nonfinite"
TENSORBOARD = "tensorboard"
_LOCK_FILE = ".lock"
_PACKAGES = ("tensorflow", "keras", "tensorflow-io", "numpy", "tensorboard", "soundfile", "soxr")


@contextlib.contextmanager
def opened_run_folder(workdir: Path, config: TrainConfig, *, writes: bool = True) -> Iterator[Path]:
    """Creates or reopens the folder of a run and locks it.

    Args:
        workdir: Folder of the run; created if it does not exist.
        config: Must equal that of the folder, except for `CHANGEABLE_ON_RESUME`.
        writes: False for a worker other than the chief, which holds the lock for all.

    Raises:
        UsageError: If the folder cannot be written, is in use, or holds a run with other settings.
    """
    refuse_pattern(workdir)
    if not writes:
        _check_same_settings(workdir, config)
        yield workdir
        return
    refusal = f"Another process is training in {workdir}; wait for it or choose another --workdir."
    with contextlib.ExitStack() as stack:
        with writable_or_usage_error(workdir, "choose another --workdir"):
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(workdir / _LOCK_FILE, refusal))
        _check_same_settings(workdir, config)
        yield workdir


def read_config(workdir: Path) -> TrainConfig:
    """The configuration of the run in a folder; UsageError if there is none that can be read."""
    path = workdir / CONFIG_FILE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{workdir} is not the folder of a run: {path} cannot be read.") from error
    return from_json(TrainConfig, plain, where=str(path))


def read_record(workdir: Path) -> dict[str, Any]:
    """The content of run.json: the corpus and every start of the run; UsageError if it cannot be read."""
    path = workdir / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        # The parts that other code reads.
        parts: list[tuple[Any, type]] = [(record["corpus"]["fingerprint"], str), (record["starts"], list)]
        parts += [(start["num_replicas"], int) for start in record["starts"]]
        if not all(isinstance(value, kind) for value, kind in parts):
            raise TypeError("not the record of a run")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{path} cannot be read; restore it from a copy, or delete it, which loses the record of starts."
        ) from error
    return record


def record_start(
    workdir: Path,
    config: TrainConfig,
    corpus: Corpus,
    first_step: int,
    devices: Mapping[str, Any],
    labels: dict[str, Any] | None = None,
) -> None:
    """Writes the configuration, and adds this start to run.json: versions, git revision, hardware, devices, corpus.

    Call it after all other checks; then a rejected start leaves no configuration behind.

    Args:
        workdir: Folder of the run.
        config: Configuration of the run, resolved.
        corpus: The corpus that it trains on.
        first_step: 0, or the step from which it resumes.
        devices: The devices that it trains on (`describe_devices`); a warning is logged if the previous start had other
            replicas.
        labels: Which labels it may use, if any.

    Raises:
        UsageError: If the corpus is not the one that the run started with, unless the configuration allows that.
    """
    path = workdir / RUN_FILE
    description = {"name": corpus.manifest.name, "fingerprint": corpus.manifest.fingerprint}
    record: dict[str, Any] = read_record(workdir) if path.exists() else {"starts": [], "corpus": description}
    is_changed = record["corpus"]["fingerprint"] != description["fingerprint"]
    if is_changed and first_step > 0 and not config.allow_changed_corpus:
        raise UsageError(
            f"The corpus in {corpus.folder} is not the one that the run in {workdir} started with; "
            "use a new --workdir, restore the corpus, or allow it with --allow-changed-corpus."
        )
    samples_per_hour = 3600 * corpus.manifest.sample_rate_hz
    hours = {
        split: float(corpus.num_samples[corpus.rows_of(split)].sum() / samples_per_hour)
        for split in corpus.manifest.num_items
    }
    record["corpus"] = {
        **description,
        "description": corpus.manifest.source.get("description"),
        "hours": hours,
        "num_items": dict(corpus.manifest.num_items),
        "num_songs": dict(corpus.manifest.num_songs),
    }
    if labels is not None:
        record["labels"] = labels
    if first_step > 0:
        _note_other_replicas(record["starts"], devices["num_replicas"])
    record["starts"].append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "first_step": first_step,
            "versions": versions(),
            "git_revision": git_revision(),
            "hardware": hardware(),
            **devices,
        }
    )
    write_atomically(workdir / CONFIG_FILE, json.dumps(to_json(config), indent=2) + "\n")
    write_atomically(path, json.dumps(record, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the results depend on."""
    found = {"clmr_tf": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _note_other_replicas(starts: list[dict[str, Any]], num_replicas: int) -> None:
    num_before = starts[-1]["num_replicas"] if starts else num_replicas
    if num_before != num_replicas:
        replicas = "1 replica" if num_replicas == 1 else f"{num_replicas} replicas"
        logger.warning(
            "The run resumes with %s instead of %d; its numbers are equal up to rounding, not bit for bit.",
            replicas,
            num_before,
        )


def ends_with_schedule(config: TrainConfig) -> bool:
    """Whether the learning rate reaches zero at the end of the run, so that it cannot be made longer."""
    return config.schedule == "cosine" and not config.decay_steps


def settings_that_differ(workdir: Path, config: TrainConfig) -> list[str]:
    """The settings that may not change and that differ from those of the run in a folder, as "name before -> now".

    If a setting may not change only because of the learning rate schedule, the reason is added.

    Raises:
        UsageError: If the settings of the run in `workdir` cannot be read.
    """
    if not (workdir / CONFIG_FILE).exists():
        return []
    before = read_config(workdir)
    reasons = {}
    if ends_with_schedule(config):
        reason = "--schedule cosine without --decay-steps reaches zero at the end of the run"
        reasons = dict.fromkeys(("steps", "epochs"), f" ({reason})")
    if config.schedule == "plateau":
        reason = "with --schedule plateau, validations decide the learning rate"
        reasons = dict.fromkeys(("validate_every", "num_validation_pairs"), f" ({reason})")
    changeable = CHANGEABLE_ON_RESUME - reasons.keys()
    return [
        f"{field.name} {getattr(before, field.name)} -> {getattr(config, field.name)}{reasons.get(field.name, '')}"
        for field in dataclasses.fields(config)
        if field.name not in changeable and getattr(before, field.name) != getattr(config, field.name)
    ]


def _check_same_settings(workdir: Path, config: TrainConfig) -> None:
    differing = settings_that_differ(workdir, config)
    if differing:
        has_other_length = any(name.startswith(("steps ", "epochs ")) for name in differing)
        why = "; its cosine schedule ends with its last step, so it cannot be made longer" if has_other_length else ""
        raise UsageError(
            f"{workdir} holds a run with other settings ({', '.join(differing)}{why}); "
            "choose another --workdir, or use the settings of that run."
        )


def read_run_encoder(workdir: Path, *, best: bool = False) -> tuple[ClipEncoder, int]:
    """The float32 encoder of a run's newest checkpoint, and the number of steps that it was trained for.

    If the run keeps a running average of its weights, the encoder has the averaged weights.

    Args:
        workdir: Folder of the run.
        best: Use the best checkpoint by the metric of the run instead of the newest one.

    Raises:
        UsageError: If the run has no such checkpoint yet.
        ClmrError: If none of its checkpoints can be read.
    """
    encoder, _, step = _read_run(workdir, best, num_tags=None)
    return encoder, step


def read_run_with_head(workdir: Path, num_tags: int, *, best: bool = False) -> tuple[ClipEncoder, Head, int]:
    """Like `read_run_encoder`, but also reads the classifier of a run with labels."""
    encoder, classifier, step = _read_run(workdir, best, num_tags)
    weights = tuple(weight.numpy() for weight in classifier.trainable_variables)
    mean, standard_deviation = np.zeros(EMBEDDING_DIM, np.float32), np.ones(EMBEDDING_DIM, np.float32)
    return encoder, Head(mean, standard_deviation, weights), step


def _read_run(workdir: Path, best: bool, num_tags: int | None) -> tuple[ClipEncoder, keras.Model | None, int]:
    refuse_pattern(workdir)
    config = read_config(workdir)
    encoder = build_encoder(config.encoder, width=config.width, sample_rate_hz=config.sample_rate_hz)
    parts: dict[str, keras.Model] = {"encoder": encoder}
    if num_tags is not None:
        with dtype_policy("float32"):
            parts["classifier"] = build_classifier(num_tags)
    groups = {}
    for name, part in parts.items():
        if config.ema_momentum:
            groups[f"{name}_average"] = named_variables(part.trainable_variables)
            groups[name] = named_variables(part.non_trainable_variables)
        else:
            groups[name] = named_variables(part.variables)
    step = restore_newest(workdir / (BEST if best else CHECKPOINTS), groups)
    if step is None:
        lack = "has no best checkpoint, which needs a validation" if best else "has no checkpoint yet"
        raise UsageError(f"The run in {workdir} {lack}; train it for longer.")
    return encoder, parts.get("classifier"), step
