"""The network of the released PyTorch code, written out in NumPy: slow, and independent of Keras.

What a conversion is measured against. Source: https://github.com/Spijkervet/CLMR, clmr/models/sample_cnn.py, and
https://github.com/Spijkervet/SimCLR, simclr/simclr.py.
"""

import dataclasses

import numpy as np

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
