"""Loads an encoder from wherever a user has one."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from clmr_tf import model_folder
from clmr_tf.checkpoint import named_variables, restore_newest
from clmr_tf.encoder import Encoder, Tagger
from clmr_tf.errors import UsageError
from clmr_tf.files import refuse_pattern
from clmr_tf.head import Head, probabilities
from clmr_tf.model_manifest import MANIFEST_FILE, read_manifest
from clmr_tf.models.classifier import build_classifier
from clmr_tf.models.sample_cnn import EMBEDDING_DIM, SampleCNN, build_encoder, dtype_policy
from clmr_tf.run_folder import BEST, CHECKPOINTS, CONFIG_FILE, read_config, read_record


def load_encoder(folder: str | Path, *, check: bool = False) -> Encoder:
    """Loads the encoder of a model folder, or of the newest checkpoint of a run folder, with its head if it has one.

    Args:
        folder: As `python -m clmr_tf.export` or `python -m clmr_tf.train` leaves it.
        check: Also run the golden numbers of a model folder through its SavedModel and projector; through weights and
            head they are run in any case.

    Raises:
        UsageError: If the folder holds neither, or a part of it cannot be read.
        ClmrError: If the golden numbers are not met.
    """
    folder = Path(folder).expanduser()
    if (folder / MANIFEST_FILE).is_file():
        if check:
            model_folder.check_golden(folder)
        model, tagger = model_folder.read_encoder(folder), _tagger_of_model(folder)
        model_folder.check_golden_of(folder, model)
    elif (folder / CONFIG_FILE).is_file():
        model, tagger = _encoder_of_run(folder)
    else:
        raise UsageError(
            f"{folder} is neither an exported model nor the folder of a run; give what `python -m clmr_tf.export` or "
            "`python -m clmr_tf.train` wrote."
        )
    return Encoder(model, model.clip_num_samples, model.sample_rate_hz, tagger=tagger)


def _tagger_of_model(folder: Path) -> Tagger | None:
    if not model_folder.gives_tags(folder):
        return None
    manifest = read_manifest(folder)
    return _tagger(model_folder.read_head(folder), manifest["tag_names"], manifest["single_label"])


def _encoder_of_run(folder: Path) -> tuple[SampleCNN, Tagger | None]:
    if not read_config(folder).has_labels:
        return read_run_encoder(folder)[0], None
    labels = read_record(folder)["labels"]
    model, head, _ = read_run_with_head(folder, len(labels["tag_names"]))
    return model, _tagger(head, labels["tag_names"], labels["single_label"])


def _tagger(head: Head, tag_names: Sequence[str], single_label: bool) -> Tagger:
    def probabilities_of(vectors: np.ndarray) -> np.ndarray:
        return probabilities(head.logits(vectors).astype(np.float64), single_label).astype(np.float32)

    return Tagger(tuple(tag_names), probabilities_of)


def start_from_pretrained(encoder: SampleCNN, folder: Path) -> None:
    """Gives a built encoder the weights and running statistics of a trained one.

    Args:
        encoder: Of any precision, on any number of replicas.
        folder: As of `load_encoder`.

    Raises:
        UsageError: If the folder holds no encoder, or one of another width or rate.
    """
    pretrained = load_encoder(folder).model
    shape, expected = ((one.width, one.sample_rate_hz) for one in (pretrained, encoder))
    if shape != expected:
        raise UsageError(
            f"The encoder in {folder} has --width {shape[0]:g} and --sample-rate-hz {shape[1]}, and the run has "
            f"{expected[0]:g} and {expected[1]}; give those of the encoder."
        )
    for variable, value in zip(encoder.variables, pretrained.variables, strict=True):
        variable.assign(value)


def read_run_encoder(workdir: Path, *, best: bool = False) -> tuple[SampleCNN, int]:
    """The float32 encoder of a run's newest checkpoint, and the number of steps it was trained for.

    Of a run that keeps a running average of its weights, the average.

    Args:
        workdir: Folder of the run.
        best: Take the best checkpoint by the metric of the run instead of the newest.

    Raises:
        UsageError: If the run has no such checkpoint yet.
        ClmrError: If none of its checkpoints can be read.
    """
    encoder, _, step = _read_run(workdir, best, num_tags=None)
    return encoder, step


def read_run_with_head(workdir: Path, num_tags: int, *, best: bool = False) -> tuple[SampleCNN, Head, int]:
    """As `read_run_encoder`, of a run that learns from labels, with its classifier."""
    encoder, classifier, step = _read_run(workdir, best, num_tags)
    weights = tuple(weight.numpy() for weight in classifier.trainable_variables)
    nothing_to_do = np.zeros(EMBEDDING_DIM, np.float32), np.ones(EMBEDDING_DIM, np.float32)
    return encoder, Head(*nothing_to_do, weights), step


def _read_run(workdir: Path, best: bool, num_tags: int | None) -> tuple[SampleCNN, keras.Model | None, int]:
    refuse_pattern(workdir)
    config = read_config(workdir)
    encoder = build_encoder(width=config.width, sample_rate_hz=config.sample_rate_hz)
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
        lack = "has kept no best checkpoint, which takes a validation" if best else "has no checkpoint yet"
        raise UsageError(f"The run in {workdir} {lack}; train it for longer.")
    return encoder, parts.get("classifier"), step
