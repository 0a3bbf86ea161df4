"""Converts PyTorch checkpoints to model folders and back."""

import dataclasses
import hashlib
import io
import logging
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from safetensors.numpy import save

from clmr_tf.convert.layouts import (
    OriginalLayer,
    OriginalNetwork,
    arrange,
    arrange_head,
    sample_rate_of,
    state_dict_of,
    width_of,
)
from clmr_tf.convert.reader import contiguous_strides, read_checkpoint
from clmr_tf.data.labels import MAGNATAGATUNE_TAGS, MSD_TAGS
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.keras_model import check_golden_of, read_encoder, read_projector
from clmr_tf.export.model_folder import (
    GOLDEN_FILE,
    GOLDEN_TOLERANCE,
    HEAD_FILE,
    read_golden,
    read_head,
    read_manifest,
    relative_error,
)
from clmr_tf.export.writing import golden_audio, require_same_origin, write_model_folder
from clmr_tf.files import put_in_place, read_arrays, require_writable, write_atomically
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.clip_encoder import dtype_policy
from clmr_tf.models.encoders import DEFAULT_ENCODER, build_encoder, encoder_name
from clmr_tf.models.heads import Head
from clmr_tf.models.projector import build_projector
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.train.run_folder import versions

logger = logging.getLogger(__name__)


def to_encoder(network: OriginalNetwork) -> SampleCNN:
    """The float32 encoder with the weights of a network."""
    shapes = [layer.kernel.shape for layer in network.layers]
    encoder = build_encoder(width=width_of(shapes), sample_rate_hz=sample_rate_of(shapes))
    pairs = zip(encoder.convolutions, encoder.normalizations, network.layers, strict=True)
    for convolution, normalization, layer in pairs:
        convolution.kernel.assign(layer.kernel.transpose(2, 1, 0))
        normalization.gamma.assign(layer.gamma)
        normalization.beta.assign(layer.beta)
        normalization.moving_mean.assign(layer.mean - layer.bias)
        normalization.moving_variance.assign(layer.variance)
    return encoder


def to_projector(network: OriginalNetwork) -> keras.Model | None:
    """The float32 projector of a network, if it has one."""
    if not network.projector:
        return None
    with dtype_policy("float32"):
        projector = build_projector(projection_dim=len(network.projector[1]))
    projector.set_weights([matrix.T for matrix in network.projector])
    return projector


def to_head(network: OriginalNetwork) -> Head | None:
    """The head of a network, if it has one."""
    if not network.head:
        return None
    # Contiguous, since transposed views are slow to multiply.
    weights = tuple(np.ascontiguousarray(part.T, np.float32) for part in network.head)
    return Head(np.zeros(EMBEDDING_DIM, np.float32), np.ones(EMBEDDING_DIM, np.float32), weights)


def to_original(encoder: SampleCNN, projector: keras.Model | None, head: Head | None) -> OriginalNetwork:
    """The equivalent original network, with zero biases, in float64, so that nothing is rounded."""

    def layer(convolution: keras.layers.Layer, normalization: keras.layers.Layer) -> OriginalLayer:
        return OriginalLayer(
            kernel=_float64(convolution.kernel).transpose(2, 1, 0),
            bias=np.zeros(convolution.filters),
            gamma=_float64(normalization.gamma),
            beta=_float64(normalization.beta),
            mean=_float64(normalization.moving_mean),
            variance=_float64(normalization.moving_variance),
        )

    layers = tuple(map(layer, encoder.convolutions, encoder.normalizations))
    matrices = tuple(_float64(matrix).T for matrix in projector.weights) if projector else ()
    # The original does not standardise its features.
    return OriginalNetwork(layers, matrices, tuple(part.T for part in head.folded()) if head else ())


def _float64(weight: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight).astype(np.float64)


_STORAGE_NAMES = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}
_FORMAT_VERSION = b"3\n"
_ROOT = "archive"


def state_dict_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A state dict as a file for `torch.load(weights_only=True)`; equal tensors give equal bytes.

    Args:
        tensors: Tensors by name, float32, float64 or int64 of any shape.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:

        def add(name: str, content: bytes) -> None:
            # ZipInfo has a fixed date, so that equal tensors give equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{_ROOT}/{name}"), content)

        # Older versions of PyTorch take the archive's name from the first file.
        add("data.pkl", _pickle(tensors))
        add("byteorder", b"little")
        for number, tensor in enumerate(tensors.values()):
            add(f"data/{number}", tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
        add("version", _FORMAT_VERSION)
    return file.getvalue()


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of a dict of tensors, opcode by opcode: `pickle.dumps` would have to import torch."""
    entries = [
        _text(name)
        + _global("torch._utils", "_rebuild_tensor_v2")
        + _tuple(
            _tuple(
                _text("storage"),
                _global("torch", _STORAGE_NAMES[tensor.dtype.str[1:]]),
                _text(str(number)),
                _text("cpu"),
                _integer(tensor.size),
            )
            + pickle.BINPERSID,
            _integer(0),
            _tuple(*map(_integer, tensor.shape)),
            _tuple(*map(_integer, contiguous_strides(tensor.shape))),
            pickle.NEWFALSE,
            _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE,
        )
        + pickle.REDUCE
        for number, (name, tensor) in enumerate(tensors.items())
    ]
    content = pickle.EMPTY_DICT + pickle.MARK + b"".join(entries) + pickle.SETITEMS
    return pickle.PROTO + b"\x02" + content + pickle.STOP


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    return pickle.BININT + struct.pack("<i", number)


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def safetensors_bytes(tensors: Mapping[str, np.ndarray], num_batches: int) -> bytes:
    """A state dict as a .safetensors file.

    Args:
        tensors: As for `state_dict_bytes`.
        num_batches: Number of training steps, "global_step" of the metadata, which also holds versions.
    """
    # safetensors copies raw memory, so tensors must be contiguous.
    contiguous = {name: tensor.copy(order="C") for name, tensor in tensors.items()}
    return save(contiguous, {"format": "pt", "global_step": str(num_batches), **versions()})


_TAG_LISTS = {"magnatagatune": MAGNATAGATUNE_TAGS, "msd": MSD_TAGS}
Outputs = Mapping[str, np.ndarray]
"""Outputs by their names in the original: h, z and logits."""


def from_pytorch(
    checkpoint: Path,
    folder: Path,
    *,
    head_checkpoint: Path | None,
    tags: str | None,
    golden: Path | None,
    licence: str,
    overwrite: bool = False,
) -> dict[str, float]:
    """Converts a checkpoint to a model folder.

    Args:
        checkpoint: Checkpoint of the encoder, in any known layout.
        folder: Model folder to write, as for `write_model_folder`.
        head_checkpoint: Checkpoint of the head, if saved separately.
        tags: "magnatagatune", "msd", or a file with one name per line. Default: "magnatagatune" for a head of 50.
        golden: .npz file with `audio` and outputs of the original code to compare with.
        licence: Licence for the manifest.
        overwrite: Also replace the model of a run or of another checkpoint.

    Returns:
        For "h", and for "z" and "logits" if present, the largest error relative to the largest value.

    Raises:
        UsageError: If a file cannot be read or has unexpected content, or the folder cannot be written.
        ClmrError: If the outputs of the converted model differ from the original network's or from `golden`.
    """
    found = read_checkpoint(checkpoint)
    if not overwrite:
        require_same_origin(folder, {"converted_from": {"checkpoint": _provenance(checkpoint)}})
    network, layout = arrange(found.tensors, checkpoint)
    if head_checkpoint is not None:
        head_weights = arrange_head(read_checkpoint(head_checkpoint).tensors, head_checkpoint)
        network = dataclasses.replace(network, head=head_weights)
    tag_names = _tag_names(tags, len(network.head[-1])) if network.head else ()
    encoder, projector, head = to_encoder(network), to_projector(network), to_head(network)

    def converted(audio: np.ndarray) -> dict[str, np.ndarray]:
        outputs = {"h": encoder(tf.constant(audio), training=False).numpy()}
        if projector is not None:
            outputs["z"] = projector(tf.constant(outputs["h"])).numpy()
        if head is not None:
            outputs["logits"] = head.logits(outputs["h"])
        return outputs

    audio = golden_audio(encoder.clip_num_samples, encoder.sample_rate_hz)
    errors = _require_equal(converted(audio), _original_outputs(network, audio), "the original network")
    if golden is not None:
        recorded = _golden_outputs(golden, encoder.clip_num_samples)
        again = _require_equal(converted(recorded["audio"]), recorded, str(golden))
        errors = {name: max(error, again.get(name, 0)) for name, error in errors.items()}
    provenance = {"checkpoint": _provenance(checkpoint), "layout": layout.name, **found.metadata}
    if head_checkpoint is not None:
        provenance["head"] = _provenance(head_checkpoint)
    step = found.metadata.get("global_step", 0)
    manifest_entries = {
        "name": folder.name,
        "licence": licence,
        "tag_names": list(tag_names),
        "single_label": False,
        "scores": {},
        "training": {"step": step if isinstance(step, int) else 0, "converted_from": provenance},
    }
    lost = write_model_folder(encoder, folder, manifest_entries, head, projector)
    if lost:
        logger.warning("%s no longer holds %s, which belonged to the previous model.", folder, ", ".join(lost))
    return errors


def to_pytorch(folder: Path, checkpoint: Path) -> dict[str, float]:
    """Converts a model folder to a state dict of the released code: encoder, and projector and head if present.

    Args:
        folder: Model folder.
        checkpoint: File to write or replace: safetensors if it ends in .safetensors, else for `torch.load`.

    Returns:
        As for `from_pytorch`, between the golden numbers and the original network with the written weights.

    Raises:
        UsageError: If the model cannot be read, is not a SampleCNN, or the file cannot be written.
        ClmrError: If the outputs differ from the golden numbers; then nothing is written.
    """
    manifest, encoder = read_manifest(folder), read_encoder(folder)
    if encoder_name(encoder) != DEFAULT_ENCODER:
        raise UsageError(
            f"The released code builds only SampleCNN, but the encoder in {folder} is {encoder_name(encoder)}; give a "
            f"model that was trained with --encoder {DEFAULT_ENCODER}."
        )
    head = read_head(folder) if (folder / HEAD_FILE).is_file() else None
    _require_original_head(folder, head)
    require_writable(checkpoint, "--out")
    if encoder.width != 1:
        logger.warning(
            "The released code builds only SampleCNN of width 1, but this one has width %g; change the channels of "
            "its class.",
            encoder.width,
        )
    network = to_original(encoder, read_projector(folder), head)
    step = manifest["training"]["step"]
    tensors = state_dict_of(network, step)
    is_safetensors = checkpoint.suffix == ".safetensors"
    content = safetensors_bytes(tensors, step) if is_safetensors else state_dict_bytes(tensors)
    check_golden_of(folder, encoder)
    golden = read_golden(folder)
    draft = checkpoint.with_name(f".{checkpoint.name}.draft")
    try:
        write_atomically(draft, content)
        written, _ = arrange(read_checkpoint(draft).tensors, draft)
        expected = {original: golden[ours] for original, ours in _OUR_NAMES.items() if ours in golden}
        errors = _require_equal(_original_outputs(written, golden["audio"]), expected, str(folder / GOLDEN_FILE))
        put_in_place(draft, checkpoint)
    finally:
        draft.unlink(missing_ok=True)
    return errors


def _require_original_head(folder: Path, head: Head | None) -> None:
    """Raises UsageError for a head that the released code cannot build."""
    hidden_units = [len(bias) for bias in head.weights[1:-1:2]] if head else []
    if hidden_units not in ([], [EMBEDDING_DIM]):
        raise UsageError(
            f"The head of the model in {folder} has hidden layers of {hidden_units} units, but the released code has "
            f"none or one of {EMBEDDING_DIM}; convert a model with such a head, or without a head."
        )


_OUR_NAMES = {"h": "embedding", "z": "projection", "logits": "logits"}


def _original_outputs(network: OriginalNetwork, audio: np.ndarray) -> dict[str, np.ndarray]:
    embedding = network.encode(audio)
    heads: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    if network.projector:
        heads["z"] = network.project
    if network.head:
        heads["logits"] = network.classify
    return {"h": embedding, **{name: head(embedding) for name, head in heads.items()}}


def _require_equal(received: Outputs, expected: Outputs, whose: str) -> dict[str, float]:
    """Checks the outputs that both have, and returns their relative errors."""
    names = [name for name in received if name in expected]
    if not names:
        raise UsageError(f"{whose} has none of the model's outputs {', '.join(received)}; give other numbers.")
    for name in names:
        if received[name].shape != expected[name].shape:
            raise UsageError(
                f"{whose} has `{name}` of shape {list(expected[name].shape)}, and the model "
                f"{list(received[name].shape)}; give numbers of this model."
            )
        if not (np.isfinite(received[name]).all() and np.isfinite(expected[name]).all()):
            raise ClmrError(
                f"`{name}` of the model or of {whose} is not finite (NaN or infinite), so nothing was written; give a "
                "checkpoint with finite weights."
            )
    errors = {name: relative_error(received[name], expected[name]) for name in names}
    for name, error in errors.items():
        if not error <= GOLDEN_TOLERANCE:
            raise ClmrError(
                f"The model differs in `{name}` from {whose} by {error:.1e} of its largest value (allowed "
                f"{GOLDEN_TOLERANCE:.0e}), so nothing was written; give files that belong together."
            )
    return errors


def _golden_outputs(path: Path, clip_num_samples: int) -> dict[str, np.ndarray]:
    """`audio` [n, samples] of an .npz file, and those of `h`, `z` and `logits` that it has."""
    advice = f"give an .npz file with `audio` [n, {clip_num_samples}] and `h`, `z` or `logits`"
    try:
        found = read_arrays(path)
        outputs = {name: found[name].astype(np.float32) for name in ("audio", *_OUR_NAMES) if name in found}
    except ValueError as error:
        raise UsageError(f"--golden {path} cannot be read ({error}); {advice}.") from error
    audio = outputs.get("audio", np.zeros(0))
    if audio.ndim != 2 or audio.shape[1] != clip_num_samples or not len(audio) or len(outputs) < 2:
        raise UsageError(f"--golden {path} has {', '.join(outputs) or 'nothing'}, of a wrong kind or shape; {advice}.")
    return outputs


def _tag_names(tags: str | None, num_tags: int) -> tuple[str, ...]:
    advice = "give --tags magnatagatune, msd, or a file with one name per line"
    if tags is None and num_tags != len(MAGNATAGATUNE_TAGS):
        raise UsageError(f"The head has {num_tags} outputs with unknown names; {advice}.")
    names = _TAG_LISTS.get(tags or "magnatagatune")
    if names is None:
        try:
            names = tuple(
                line.strip()
                for line in Path(tags).expanduser().read_text(encoding="utf-8").splitlines()
                if line.strip()
            )
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--tags {tags} cannot be read ({error}); {advice}.") from error
    if len(names) != num_tags or len(set(names)) != num_tags:
        raise UsageError(
            f"--tags {tags} has {len(names)} names, {len(set(names))} of them different, and the head has {num_tags} "
            f"outputs; {advice}."
        )
    return names


def _provenance(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
