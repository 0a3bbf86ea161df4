"""Encoders that run in TensorFlow, of model folders and of run folders."""

import functools
from pathlib import Path

import tensorflow as tf

from clmr_tf.errors import UsageError
from clmr_tf.export.keras_model import check_golden_of, read_encoder, weights_hash
from clmr_tf.export.model_folder import MANIFEST_FILE
from clmr_tf.inference.encoder import Encoder, Tagger, tagger_of, tagger_of_model
from clmr_tf.models.clip_encoder import ClipEncoder
from clmr_tf.models.encoders import encoder_name
from clmr_tf.train.run_folder import CONFIG_FILE, read_config, read_record, read_run_encoder, read_run_with_head


def tensorflow_encoder(model: ClipEncoder, *, batch_size: int = 32, tagger: Tagger | None = None) -> Encoder:
    """Wraps a network, whose weights may still change.

    Args:
        model: A built network.
        batch_size: Windows per call.
        tagger: From embeddings to tags, if the model has tags.
    """
    signature = [tf.TensorSpec([None, model.clip_num_samples], tf.float32)]
    encode = tf.function(
        lambda audio: tf.cast(model(audio, training=False), tf.float32), input_signature=signature, autograph=False
    )
    return Encoder(
        lambda audio: encode(tf.constant(audio)).numpy(),
        model.clip_num_samples,
        model.sample_rate_hz,
        functools.partial(weights_hash, model),
        runtime="tensorflow",
        batch_size=batch_size,
        tagger=tagger,
    )


def load_tensorflow_encoder(folder: Path, num_threads: int | None = None) -> Encoder:
    """Loads a model folder or a run folder; arguments and errors as for `load_encoder`."""
    if num_threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    model, tagger = _read_model(folder)
    return tensorflow_encoder(model, tagger=tagger)


def _read_model(folder: Path) -> tuple[ClipEncoder, Tagger | None]:
    if (folder / MANIFEST_FILE).is_file():
        model = read_encoder(folder)
        check_golden_of(folder, model)
        return model, tagger_of_model(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise UsageError(
            f"{folder} is neither a model folder nor a run folder; give one written by `python -m clmr_tf.export` or "
            "`python -m clmr_tf.train`."
        )
    if not read_config(folder).has_labels:
        return read_run_encoder(folder)[0], None
    labels = read_record(folder)["labels"]
    model, head, _ = read_run_with_head(folder, len(labels["tag_names"]))
    return model, tagger_of(head, labels["tag_names"], labels["single_label"])


def start_from_pretrained(encoder: ClipEncoder, folder: Path) -> None:
    """Copies the weights and running statistics of a trained encoder to a built one.

    Args:
        encoder: An encoder of any precision, on any number of replicas.
        folder: As for `load_encoder`.

    Raises:
        UsageError: If the folder holds no encoder, or another one, or one of another width or sample rate.
    """
    pretrained, _ = _read_model(folder.expanduser())
    shape, expected = ((encoder_name(one), one.width, one.sample_rate_hz) for one in (pretrained, encoder))
    if shape != expected:
        raise UsageError(
            f"The encoder in {folder} has --encoder {shape[0]}, --width {shape[1]:g} and --sample-rate-hz {shape[2]}, "
            f"but the run has {expected[0]}, {expected[1]:g} and {expected[2]}; use the values of the encoder."
        )
    for variable, value in zip(encoder.variables, pretrained.variables, strict=True):
        variable.assign(value)
