"""The original network in NumPy, and the key layouts of its state dicts."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clmr_tf.convert.reader import some_keys
from clmr_tf.errors import UsageError
from clmr_tf.models import EMBEDDING_DIM
from clmr_tf.models.sample_cnn import POOL_SIZES, layer_channels

BATCH_NORM_EPSILON = 1e-5
"""The default of `torch.nn.BatchNorm1d`, which the original uses."""


@dataclasses.dataclass(frozen=True)
class OriginalLayer:
    """A convolution with bias and the batch normalisation after it, float64.

    Attributes:
        kernel: [out, in, size].
        bias: [out].
        gamma: Scale, [out].
        beta: Offset, [out].
        mean: Running mean, [out].
        variance: Running variance, [out].
    """

    kernel: np.ndarray
    bias: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


@dataclasses.dataclass(frozen=True)
class OriginalNetwork:
    """Encoder, projector and head in float64, laid out as in PyTorch: matrices are [out, in].

    Attributes:
        layers: The stem, the nine blocks and the last convolution.
        projector: Its two matrices, [512, 512] and [n, 512]; may be empty.
        head: Matrix and bias of each layer; may be empty.
    """

    layers: tuple[OriginalLayer, ...]
    projector: tuple[np.ndarray, ...] = ()
    head: tuple[np.ndarray, ...] = ()

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Clips [batch, clip_num_samples] -> h, float64 [batch, 512]."""
        frames = audio[:, np.newaxis].astype(np.float64)
        for index, layer in enumerate(self.layers):
            is_stem, is_block = index == 0, 0 < index < len(self.layers) - 1
            frames = _convolve(frames, layer, stride=3 if is_stem else 1, padding=0 if is_stem else 1)
            frames = np.maximum(_normalize(frames, layer), 0)
            if is_block:
                # In the original, kernel size, pool size and pool stride are equal.
                frames = _pool(frames, layer.kernel.shape[2])
        return frames.reshape(len(frames), -1)

    def project(self, embedding: np.ndarray) -> np.ndarray:
        """h [batch, 512] -> z, float64 [batch, n]."""
        hidden, projection = self.projector
        return np.maximum(embedding @ hidden.T, 0) @ projection.T

    def classify(self, embedding: np.ndarray) -> np.ndarray:
        """h [batch, 512] -> logits, float64 [batch, tags]."""
        for layer in range(0, len(self.head), 2):
            embedding = np.maximum(embedding, 0) if layer else embedding
            embedding = embedding @ self.head[layer].T + self.head[layer + 1]
        return embedding


def _convolve(frames: np.ndarray, layer: OriginalLayer, stride: int, padding: int) -> np.ndarray:
    """[batch, in, time] -> [batch, out, frames], padded with zeros."""
    frames = np.pad(frames, ((0, 0), (0, 0), (padding, padding)))
    size = layer.kernel.shape[2]
    num_frames = (frames.shape[2] - size) // stride + 1
    # NumPy multiplies contiguous matrices with BLAS, and others without.
    taps = np.ascontiguousarray(layer.kernel.transpose(2, 0, 1))
    shifts = (frames[:, :, tap : tap + stride * (num_frames - 1) + 1 : stride] for tap in range(size))
    return sum(map(np.matmul, taps, map(np.ascontiguousarray, shifts))) + layer.bias[:, np.newaxis]


def _normalize(frames: np.ndarray, layer: OriginalLayer) -> np.ndarray:
    scale = layer.gamma / np.sqrt(layer.variance + BATCH_NORM_EPSILON)
    return (frames - layer.mean[:, np.newaxis]) * scale[:, np.newaxis] + layer.beta[:, np.newaxis]


def _pool(frames: np.ndarray, size: int) -> np.ndarray:
    num_frames = frames.shape[2] // size
    return frames[:, :, : num_frames * size].reshape(*frames.shape[:2], num_frames, size).max(axis=3)


# Key prefixes that are added by DataParallel and DistributedDataParallel, and by torch.compile.
_WRAPPERS = frozenset({"module", "_orig_mod"})
_NUM_LAYERS = 11
_LAYER_PARTS = {
    "kernel": "0.weight",
    "bias": "0.bias",
    "gamma": "1.weight",
    "beta": "1.bias",
    "mean": "1.running_mean",
    "variance": "1.running_var",
}


@dataclasses.dataclass(frozen=True)
class KeyLayout:
    """Key names of a state dict.

    Attributes:
        name: For manifests and messages.
        layer: Prefix of a layer's keys, with its `index` from 0 or `number` from 1.
        encoder_head: Prefix of a linear head inside the encoder.
        projector: Prefix of the projector.
        head: Prefix of a head after the encoder, if the layout has one.
        repeated: Prefixes of duplicate weights, which are ignored.
    """

    name: str
    layer: str
    encoder_head: str
    projector: str
    head: str | None
    repeated: tuple[str, ...] = ()

    def layer_key(self, index: int, part: str) -> str:
        """Key of a part of a layer, such as "kernel"."""
        return self.layer.format(index=index, number=index + 1) + _LAYER_PARTS[part]


PLAIN = KeyLayout(
    "encoder.sequential.*",
    "encoder.sequential.{index}.",
    "encoder.fc.",
    "projector.",
    "model.",
    ("model.sequential.", "model.fc."),
)
LAYOUTS = (
    KeyLayout(
        "model.encoder.sequential.*",
        "model.encoder.sequential.{index}.",
        "model.encoder.fc.",
        "model.projector.",
        None,
        ("encoder.",),
    ),
    PLAIN,
    KeyLayout("encoder.conv{n}.*", "encoder.conv{number}.", "encoder.fc.", "projector.", "model."),
)


class _Weights:
    """The tensors of a state dict that have not been used yet."""

    def __init__(self, tensors: Mapping[str, np.ndarray], path: Path) -> None:
        self._unused = dict(tensors)
        self._path = path

    def take(self, key: str, *shape: int | None) -> np.ndarray:
        """A tensor as float64; None in a shape is any length."""
        tensor = self._unused.pop(key, None)
        if tensor is None:
            raise UsageError(
                f"{self._path} has no `{key}`, but the unused keys {some_keys(self._unused)}; give a complete "
                "checkpoint of the released code."
            )
        fits = len(tensor.shape) == len(shape) and all(
            wanted in (None, length) for length, wanted in zip(tensor.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("n" if length is None else str(length) for length in shape)
            raise UsageError(
                f"{self._path}: `{key}` has the shape {list(tensor.shape)} instead of [{wanted}]; only the released "
                "SampleCNN can be converted, of any width."
            )
        numbers = tensor.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise UsageError(f"{self._path}: `{key}` has values that are not finite; give another checkpoint.")
        return numbers

    def take_linear(self, prefix: str, num_outputs: int | None) -> tuple[np.ndarray, np.ndarray]:
        weight = self.take(f"{prefix}weight", num_outputs, EMBEDDING_DIM)
        return weight, self.take(f"{prefix}bias", len(weight))

    def take_head(self, prefix: str) -> tuple[np.ndarray, ...]:
        """The one or two linear layers of the original's head."""
        if f"{prefix}2.weight" not in self._unused:
            return self.take_linear(f"{prefix}0.", None)
        return *self.take_linear(f"{prefix}0.", EMBEDDING_DIM), *self.take_linear(f"{prefix}2.", None)

    def require_used(self, repeated: tuple[str, ...]) -> None:
        unexpected = [
            key for key in self._unused if not key.startswith(repeated) and not key.endswith(".num_batches_tracked")
        ]
        if unexpected:
            raise UsageError(
                f"{self._path} has the unexpected keys {some_keys(unexpected)}; only the released SampleCNN, with its "
                "projector or its head, can be converted."
            )


def unwrapped(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """A state dict without the wrappers of the network in its keys.

    Args:
        tensors: A state dict.
        path: Its path, for errors.

    Raises:
        UsageError: If two keys become equal.
    """
    names = {key: ".".join(part for part in key.split(".") if part not in _WRAPPERS) for key in tensors}
    repeated = [key for key, name in names.items() if name != key and name in tensors]
    if repeated or len(set(names.values())) < len(names):
        raise UsageError(
            f"{path} has the same weights with and without a wrapper, such as {some_keys(repeated or names)}; give a "
            "checkpoint of one network."
        )
    return {names[key]: tensor for key, tensor in tensors.items()}


def arrange(tensors: Mapping[str, np.ndarray], path: Path) -> tuple[OriginalNetwork, KeyLayout]:
    """Finds the network in a state dict.

    Args:
        tensors: The state dict.
        path: Its path, for errors.

    Raises:
        UsageError: If the layout is unknown, a key is missing or unexpected, or a shape does not fit.
    """
    tensors = unwrapped(tensors, path)
    layout = next((one for one in LAYOUTS if one.layer_key(0, "kernel") in tensors), None)
    if layout is None:
        expected = ", ".join(f"`{one.layer_key(0, 'kernel')}`" for one in LAYOUTS)
        raise UsageError(
            f"{path} has an unknown layout: it has none of the keys {expected}, but {some_keys(tensors)}; give a "
            "checkpoint of an encoder of the released code."
        )
    weights = _Weights(tensors, path)
    kernel_shapes = [tensors.get(layout.layer_key(index, "kernel"), np.zeros(())).shape for index in range(_NUM_LAYERS)]
    channels, sizes = layer_channels(width_of(kernel_shapes)), (3, *POOL_SIZES[sample_rate_of(kernel_shapes)], 3)
    layers = []
    for index, (before, after, size) in enumerate(zip((1, *channels[:-1]), channels, sizes, strict=True)):
        shapes = {"kernel": (after, before, size)}
        parts = {
            part: weights.take(layout.layer_key(index, part), *shapes.get(part, (after,))) for part in _LAYER_PARTS
        }
        layers.append(OriginalLayer(**parts))
    projector: tuple[np.ndarray, ...] = ()
    if f"{layout.projector}0.weight" in tensors:
        hidden = weights.take(f"{layout.projector}0.weight", EMBEDDING_DIM, EMBEDDING_DIM)
        projector = hidden, weights.take(f"{layout.projector}2.weight", None, EMBEDDING_DIM)
    head: tuple[np.ndarray, ...] = ()
    if f"{layout.encoder_head}weight" in tensors:
        head = weights.take_linear(layout.encoder_head, None)
    if layout.head is not None and f"{layout.head}0.weight" in tensors:
        # This head was trained afterwards; then the one inside the encoder was never used.
        head = weights.take_head(layout.head)
    weights.require_used(layout.repeated)
    # The released code writes zeros if there is no head.
    return OriginalNetwork(tuple(layers), projector, head if any(part.any() for part in head) else ()), layout


def arrange_head(tensors: Mapping[str, np.ndarray], path: Path) -> tuple[np.ndarray, ...]:
    """Finds the head in a state dict of a head, or of an encoder with a head.

    Raises:
        UsageError: If there is none, or a shape does not fit.
    """
    tensors = unwrapped(tensors, path)
    prefix = next((one for one in ("", "model.") if f"{one}0.weight" in tensors), None)
    if prefix is None:
        raise UsageError(
            f"{path} contains no head: it has neither `0.weight` nor `model.0.weight`, but {some_keys(tensors)}; "
            "give a finetuner checkpoint of the released code."
        )
    return _Weights(tensors, path).take_head(prefix)


def state_dict_of(network: OriginalNetwork, num_batches: int) -> dict[str, np.ndarray]:
    """The state dict of a network in the layout `encoder.sequential.*`, float32.

    A linear head becomes `encoder.fc`, one with a hidden layer `model.0` and `model.2`.

    Args:
        network: What to write.
        num_batches: Number of training steps, `num_batches_tracked` of the batch normalisations.
    """
    tensors = {}
    for index, layer in enumerate(network.layers):
        tensors |= {PLAIN.layer_key(index, part): getattr(layer, part) for part in _LAYER_PARTS}
        tensors[f"{PLAIN.layer.format(index=index)}1.num_batches_tracked"] = np.array(num_batches)
    tensors |= {f"{PLAIN.projector}{place}.weight": part for place, part in zip("02", network.projector, strict=False)}
    names = ("weight", "bias") if len(network.head) == 2 else ("0.weight", "0.bias", "2.weight", "2.bias")
    prefix = PLAIN.encoder_head if len(network.head) == 2 else PLAIN.head
    tensors |= {f"{prefix}{name}": part for name, part in zip(names, network.head, strict=False)}
    return {key: one.astype(np.int64 if one.dtype.kind == "i" else np.float32) for key, one in tensors.items()}


def width_of(kernel_shapes: list[tuple[int, ...]]) -> float:
    """The width of a SampleCNN with these kernels, [out, in, size] each; for another network, the result is arbitrary.

    Channels are rounded to multiples of 8, so a range of widths has the same channels. Its middle is returned, which
    is 1 for the original.
    """
    ranges = []
    for shape, channels in ((kernel_shapes[0], layer_channels(1)[0]), (kernel_shapes[3], layer_channels(1)[3])):
        num_eighths = shape[0] / 8 if shape else channels / 8
        # A network has at least 8 channels, however narrow.
        narrowest = num_eighths - 0.5 if num_eighths > 1 else 0
        ranges.append((narrowest * 8 / channels, (num_eighths + 0.5) * 8 / channels))
    lows, highs = zip(*ranges, strict=True)
    return (max(lows) + min(highs)) / 2


def sample_rate_of(kernel_shapes: list[tuple[int, ...]]) -> int:
    """Sample rate in Hz of the SampleCNN with these kernel sizes; the first known rate for another network."""
    sizes = tuple(shape[-1] if shape else 0 for shape in kernel_shapes[1:-1])
    return next((rate for rate, pool_sizes in POOL_SIZES.items() if pool_sizes == sizes), next(iter(POOL_SIZES)))
