"""The encoder of a run, from one of its checkpoints."""

from pathlib import Path

import keras
import numpy as np

from clmr_tf.errors import UsageError
from clmr_tf.files import refuse_pattern
from clmr_tf.models.clip_encoder import EMBEDDING_DIM, ClipEncoder, dtype_policy
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.heads import Head, build_classifier
from clmr_tf.train.checkpoints import named_variables, restore_newest
from clmr_tf.train.run_folder import BEST, CHECKPOINTS, read_config


def read_run_encoder(workdir: Path, *, best: bool = False) -> tuple[ClipEncoder, int]:
    """The float32 encoder of a run's newest checkpoint, and the number of steps it was trained for.

    If the run keeps a running average of its weights, these are the weights.

    Args:
        workdir: Folder of the run.
        best: Take the best checkpoint by the metric of the run instead of the newest.

    Raises:
        UsageError: If the run has no such checkpoint yet.
        ClmrError: If none of its checkpoints can be read.
    """
    encoder, _, step = _read_run(workdir, best, num_tags=None)
    return encoder, step


def read_run_with_head(workdir: Path, num_tags: int, *, best: bool = False) -> tuple[ClipEncoder, Head, int]:
    """As `read_run_encoder`, with the classifier of a run with labels."""
    encoder, classifier, step = _read_run(workdir, best, num_tags)
    weights = tuple(weight.numpy() for weight in classifier.trainable_variables)
    mean, deviation = np.zeros(EMBEDDING_DIM, np.float32), np.ones(EMBEDDING_DIM, np.float32)
    return encoder, Head(mean, deviation, weights), step


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
