"""The original's networks: their names, shapes and order of weights."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clmr_tf.convert.state_dict_keys import some_keys, unwrapped
from clmr_tf.errors import UsageError
from clmr_tf.models.sample_cnn import EMBEDDING_DIM, POOL_SIZES, layer_channels

BATCH_NORM_EPSILON = 1e-5
"""Of `torch.nn.BatchNorm1d`, which the original leaves as it is."""


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
    """Encoder and heads, float64 as they lie in PyTorch: matrices are [out, in].

    Attributes:
        layers: The stem, the nine blocks and the last convolution.
        projector: The two matrices of the projector, [512, 512] and [n, 512], or nothing.
        head: Of each layer of the head for tags a matrix and a bias, or nothing.
    """

    layers: tuple[OriginalLayer, ...]
    projector: tuple[np.ndarray, ...] = ()
    head: tuple[np.ndarray, ...] = ()

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """Clips [batch, samples], of the length that leaves one frame -> h, float64 [batch, 512]."""
        frames = audio[:, np.newaxis].astype(np.float64)
        for index, layer in enumerate(self.layers):
            is_stem, is_block = index == 0, 0 < index < len(self.layers) - 1
            frames = _convolve(frames, layer, stride=3 if is_stem else 1, padding=0 if is_stem else 1)
            frames = np.maximum(_normalize(frames, layer), 0)
            if is_block:
                # Kernel, and size and stride of the pooling, are one number in the original.
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
    """[batch, in, time] -> [batch, out, frames], zeros beyond both ends."""
    frames = np.pad(frames, ((0, 0), (0, 0), (padding, padding)))
    size = layer.kernel.shape[2]
    num_frames = (frames.shape[2] - size) // stride + 1
    # Where the channels of a matrix do not lie side by side, NumPy multiplies without its fast library.
    taps = np.ascontiguousarray(layer.kernel.transpose(2, 0, 1))
    shifts = (frames[:, :, tap : tap + stride * (num_frames - 1) + 1 : stride] for tap in range(size))
    return sum(map(np.matmul, taps, map(np.ascontiguousarray, shifts))) + layer.bias[:, np.newaxis]


def _normalize(frames: np.ndarray, layer: OriginalLayer) -> np.ndarray:
    scale = layer.gamma / np.sqrt(layer.variance + BATCH_NORM_EPSILON)
    return (frames - layer.mean[:, np.newaxis]) * scale[:, np.newaxis] + layer.beta[:, np.newaxis]


def _pool(frames: np.ndarray, size: int) -> np.ndarray:
    num_frames = frames.shape[2] // size
    return frames[:, :, : num_frames * size].reshape(*frames.shape[:2], num_frames, size).max(axis=3)


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
    """A way to name the weights.

    Attributes:
        name: What it is called in manifests and messages.
        layer: Beginning of the keys of a layer, by `index` from 0 or `number` from 1.
        encoder_head: Beginning of the keys of a linear head inside the encoder.
        projector: Beginning of the keys of the projector.
        head: Beginning of the keys of a head behind the encoder; None if there is no such thing.
        repeated: Beginnings of keys of weights that the file names a second time.
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
    """The tensors of a state dict, taken one after the other."""

    def __init__(self, tensors: Mapping[str, np.ndarray], path: Path) -> None:
        self._left = dict(tensors)
        self._path = path

    def take(self, key: str, *shape: int | None) -> np.ndarray:
        """A tensor as float64; None in a shape is any length."""
        tensor = self._left.pop(key, None)
        if tensor is None:
            raise UsageError(
                f"{self._path} lacks `{key}`; what it has and is not used is {some_keys(self._left)}, so give a whole "
                "checkpoint of the released code."
            )
        fits = len(tensor.shape) == len(shape) and all(
            wanted in (None, length) for length, wanted in zip(tensor.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("n" if length is None else str(length) for length in shape)
            raise UsageError(
                f"{self._path}: `{key}` has the shape {list(tensor.shape)} instead of [{wanted}]; only SampleCNN of "
                "the released code can be converted, of any width."
            )
        numbers = tensor.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise UsageError(f"{self._path}: `{key}` holds numbers that are not finite; give another checkpoint.")
        return numbers

    def take_linear(self, prefix: str, num_outputs: int | None) -> tuple[np.ndarray, np.ndarray]:
        weight = self.take(f"{prefix}weight", num_outputs, EMBEDDING_DIM)
        return weight, self.take(f"{prefix}bias", len(weight))

    def take_head(self, prefix: str) -> tuple[np.ndarray, ...]:
        """The one or two linear layers that the original puts behind the encoder."""
        if f"{prefix}2.weight" not in self._left:
            return self.take_linear(f"{prefix}0.", None)
        return *self.take_linear(f"{prefix}0.", EMBEDDING_DIM), *self.take_linear(f"{prefix}2.", None)

    def require_used(self, repeated: tuple[str, ...]) -> None:
        unexpected = [
            key for key in self._left if not key.startswith(repeated) and not key.endswith(".num_batches_tracked")
        ]
        if unexpected:
            raise UsageError(
                f"{self._path} has the unexpected keys {some_keys(unexpected)}; only SampleCNN of the released code, "
                "with its projector or its head, can be converted."
            )


def arrange(tensors: Mapping[str, np.ndarray], path: Path) -> tuple[OriginalNetwork, KeyLayout]:
    """Finds the network in a state dict.

    Args:
        tensors: The state dict.
        path: What to call it in errors.

    Raises:
        UsageError: If the layout is unknown, a key is missing or too many, or a shape does not fit.
    """
    tensors = unwrapped(tensors, path)
    layout = next((one for one in LAYOUTS if one.layer_key(0, "kernel") in tensors), None)
    if layout is None:
        expected = ", ".join(f"`{one.layer_key(0, 'kernel')}`" for one in LAYOUTS)
        raise UsageError(
            f"{path} is in no layout of the released code: it has none of the keys {expected}, but "
            f"{some_keys(tensors)}; give a checkpoint of an encoder."
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
        # A head that was trained afterwards; the one inside the encoder was then never used.
        head = weights.take_head(layout.head)
    weights.require_used(layout.repeated)
    # The released code fills up a checkpoint without a head by zeros.
    return OriginalNetwork(tuple(layers), projector, head if any(part.any() for part in head) else ()), layout


def arrange_head(tensors: Mapping[str, np.ndarray], path: Path) -> tuple[np.ndarray, ...]:
    """Finds the head in a state dict that holds one by itself, or one behind an encoder.

    Raises:
        UsageError: If there is none, or a shape does not fit.
    """
    tensors = unwrapped(tensors, path)
    prefix = next((one for one in ("", "model.") if f"{one}0.weight" in tensors), None)
    if prefix is None:
        raise UsageError(
            f"{path} holds no head: it has neither the key `0.weight` nor `model.0.weight`, but {some_keys(tensors)}; "
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
    """The width of a SampleCNN with these kernels, [out, in, size] each; of another network, any.

    Channels are rounded to multiples of 8, so a range of widths gives the same ones; the middle of it is 1 for the
    original's.
    """
    ranges = []
    for shape, channels in ((kernel_shapes[0], layer_channels(1)[0]), (kernel_shapes[3], layer_channels(1)[3])):
        num_eighths = shape[0] / 8 if shape else channels / 8
        # Eight channels are the fewest there are, however narrow the network.
        narrowest = num_eighths - 0.5 if num_eighths > 1 else 0
        ranges.append((narrowest * 8 / channels, (num_eighths + 0.5) * 8 / channels))
    lows, highs = zip(*ranges, strict=True)
    return (max(lows) + min(highs)) / 2


def sample_rate_of(kernel_shapes: list[tuple[int, ...]]) -> int:
    """The rate in Hz whose SampleCNN has kernels of these sizes; of another network, the first."""
    sizes = tuple(shape[-1] if shape else 0 for shape in kernel_shapes[1:-1])
    return next((rate for rate, pool_sizes in POOL_SIZES.items() if pool_sizes == sizes), next(iter(POOL_SIZES)))
