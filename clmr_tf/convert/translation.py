"""Models from and to PyTorch checkpoints."""

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

from clmr_tf.convert.layouts import (
    OriginalLayer,
    OriginalNetwork,
    arrange,
    arrange_head,
    sample_rate_of,
    state_dict_of,
    width_of,
)
from clmr_tf.convert.reader import read_checkpoint
from clmr_tf.data.tag_names import MAGNATAGATUNE_TAGS, MSD_TAGS
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.model_folder import (
    GOLDEN_FILE,
    GOLDEN_TOLERANCE,
    HEAD_FILE,
    check_golden_of,
    read_encoder,
    read_golden,
    read_head,
    read_manifest,
    read_projector,
    relative_error,
)
from clmr_tf.export.writing import golden_audio, require_same_origin, write_model_folder
from clmr_tf.files import put_in_place, read_arrays, require_writable, write_atomically
from clmr_tf.models.heads import Head, build_projector
from clmr_tf.models.sample_cnn import EMBEDDING_DIM, SampleCNN, build_encoder, dtype_policy

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
    # A copy of the transposed, or every use of a matrix would have to walk through it column by column.
    weights = tuple(np.ascontiguousarray(part.T, np.float32) for part in network.head)
    return Head(np.zeros(EMBEDDING_DIM, np.float32), np.ones(EMBEDDING_DIM, np.float32), weights)


def to_original(encoder: SampleCNN, projector: keras.Model | None, head: Head | None) -> OriginalNetwork:
    """The original network that computes the same, its biases zero; in float64, so that nothing is rounded."""

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
    return OriginalNetwork(layers, matrices, _original_head(head) if head else ())


def _original_head(head: Head) -> tuple[np.ndarray, ...]:
    first, bias, *others = (part.astype(np.float64) for part in head.weights)
    # The original has no standardisation of its features, but the first layer can do it.
    first = first / head.standard_deviation.astype(np.float64)[:, np.newaxis]
    bias = bias - head.mean.astype(np.float64) @ first
    return tuple(part.T for part in (first, bias, *others))


def _float64(weight: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight).astype(np.float64)


_STORAGE_NAMES = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}
_FORMAT_VERSION = b"3\n"
_ROOT = "archive"


def state_dict_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file that `torch.load(weights_only=True)` reads; the same tensors give the same bytes.

    Args:
        tensors: By name, float32, float64 or int64 of any shape.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:

        def add(name: str, content: bytes) -> None:
            # Without the date, which ZipInfo sets to 1980, files would differ from one second to the next.
            archive.writestr(zipfile.ZipInfo(f"{_ROOT}/{name}"), content)

        # Older versions of PyTorch take the name of the archive from the first file.
        add("data.pkl", _pickle(tensors))
        add("byteorder", b"little")
        for number, tensor in enumerate(tensors.values()):
            add(f"data/{number}", tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
        add("version", _FORMAT_VERSION)
    return file.getvalue()


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of a dict of tensors, opcode by opcode: the pickler would want to import what it names."""
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
            _tuple(*map(_integer, _strides(tensor.shape))),
            pickle.NEWFALSE,
            _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE,
        )
        + pickle.REDUCE
        for number, (name, tensor) in enumerate(tensors.items())
    ]
    content = pickle.EMPTY_DICT + pickle.MARK + b"".join(entries) + pickle.SETITEMS
    return pickle.PROTO + b"\x02" + content + pickle.STOP


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    return pickle.BININT + struct.pack("<i", number)


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


_TAG_LISTS = {"magnatagatune": MAGNATAGATUNE_TAGS, "msd": MSD_TAGS}
# The original's words for the embedding, the projection and the scores of the tags.
Outputs = Mapping[str, np.ndarray]


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
    """Writes the model folder of a checkpoint.

    Args:
        checkpoint: Of the encoder, in any of the known layouts.
        folder: Where the model goes, as of `write_model_folder`.
        head_checkpoint: Of a head that was saved by itself.
        tags: "magnatagatune", "msd", or a file of one name a line; None takes the first for a head of 50.
        golden: Outputs of the original code to compare with, see `_golden_outputs`.
        licence: For the manifest.
        overwrite: Also replace the model of a run or of another checkpoint.

    Returns:
        Of "h", and of "z" and "logits" if there are any, the largest error relative to the largest value.

    Raises:
        UsageError: If a file cannot be read or holds something else, or the folder cannot be written.
        ClmrError: If the converted model gives other outputs than the original network, or than `golden`.
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
    provenance = {"checkpoint": _provenance(checkpoint), "layout": layout.name, **found.facts}
    if head_checkpoint is not None:
        provenance["head"] = _provenance(head_checkpoint)
    step = found.facts.get("global_step", 0)
    facts = {
        "name": folder.name,
        "licence": licence,
        "tag_names": list(tag_names),
        "single_label": False,
        "scores": {},
        "training": {"step": step if isinstance(step, int) else 0, "converted_from": provenance},
    }
    lost = write_model_folder(encoder, folder, facts, head, projector)
    if lost:
        logger.warning("%s no longer holds %s, which were of the model before.", folder, ", ".join(lost))
    return errors


def to_pytorch(folder: Path, checkpoint: Path) -> dict[str, float]:
    """Writes the checkpoint of a model folder: a state dict as the released code loads it.

    Args:
        folder: A model folder; what it has of projector and head goes with the encoder.
        checkpoint: File to write or replace.

    Returns:
        As of `from_pytorch`, between the model's golden numbers and the original network with the written weights.

    Raises:
        UsageError: If there is no such model, or the file cannot be written.
        ClmrError: If the golden numbers are not met; nothing is written then.
    """
    manifest, encoder = read_manifest(folder), read_encoder(folder)
    head = read_head(folder) if (folder / HEAD_FILE).is_file() else None
    _require_original_head(folder, head)
    require_writable(checkpoint, "--out")
    if encoder.width != 1:
        logger.warning(
            "The released code builds SampleCNN of width 1 only, and this one has %g; give its class these channels.",
            encoder.width,
        )
    network = to_original(encoder, read_projector(folder), head)
    content = state_dict_bytes(state_dict_of(network, manifest["training"]["step"]))
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
    """Raises UsageError for a head that the released code does not build."""
    hidden_units = [len(bias) for bias in head.weights[1:-1:2]] if head else []
    if hidden_units not in ([], [EMBEDDING_DIM]):
        raise UsageError(
            f"The head of the model in {folder} has hidden layers of {hidden_units} units, and that of the released "
            f"code none, or one of {EMBEDDING_DIM}; convert a model with such a head, or without one."
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
    """The errors of all outputs that both have."""
    names = [name for name in received if name in expected]
    if not names:
        raise UsageError(
            f"{whose} has nothing that the model gives, which is {', '.join(received)}; give other numbers."
        )
    for name in names:
        if received[name].shape != expected[name].shape:
            raise UsageError(
                f"{whose} gives `{name}` of the shape {list(expected[name].shape)}, and the model has "
                f"{list(received[name].shape)}; they are not of one model."
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
                f"{GOLDEN_TOLERANCE:.0e}), so nothing was written; give what belongs together."
            )
    return errors


def _golden_outputs(path: Path, clip_num_samples: int) -> dict[str, np.ndarray]:
    """`audio` [n, samples] of an .npz file, and what it has of `h`, `z` and `logits` of the original code."""
    advice = f"give an .npz file with `audio` [n, {clip_num_samples}] and `h`, `z` or `logits`"
    try:
        found = read_arrays(path)
        outputs = {name: found[name].astype(np.float32) for name in ("audio", *_OUR_NAMES) if name in found}
    except ValueError as error:
        raise UsageError(f"--golden {path} cannot be read ({error}); {advice}.") from error
    audio = outputs.get("audio", np.zeros(0))
    if audio.ndim != 2 or audio.shape[1] != clip_num_samples or not len(audio) or len(outputs) < 2:
        raise UsageError(f"--golden {path} has {', '.join(outputs) or 'nothing'} of another kind or shape; {advice}.")
    return outputs


def _tag_names(tags: str | None, num_tags: int) -> tuple[str, ...]:
    advice = "give --tags magnatagatune, msd, or a file with one name a line"
    if tags is None and num_tags != len(MAGNATAGATUNE_TAGS):
        raise UsageError(f"The head has {num_tags} outputs, whose names are not known; {advice}.")
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
            f"--tags {tags} has {len(names)} names, {len(set(names))} different ones, and the head {num_tags} outputs; "
            f"{advice}."
        )
    return names


def _provenance(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
