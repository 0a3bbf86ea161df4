"""SampleCNN in NumPy, in the original's order of operations (bias, batch norm, ReLU, then pooling)."""

import numpy as np


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """Cross-correlates [batch, time, in] with [size, in, out], zero padding on both sides."""
    x = np.pad(x, ((0, 0), (padding, padding), (0, 0)))
    num_frames = (x.shape[1] - len(kernel)) // stride + 1
    taps = [x[:, tap : tap + stride * (num_frames - 1) + 1 : stride] @ kernel[tap] for tap in range(len(kernel))]
    return sum(taps)


def normalize(x, gamma, beta, mean, variance, training):
    """Applies PyTorch's BatchNorm1d to [batch, time, channels]; also returns the new running statistics."""
    if training:
        count = x.shape[0] * x.shape[1]
        batch_mean, batch_variance = x.mean(axis=(0, 1)), x.var(axis=(0, 1))
        mean_used, variance_used = batch_mean, batch_variance
        mean = 0.9 * mean + 0.1 * batch_mean
        variance = 0.9 * variance + 0.1 * batch_variance * count / (count - 1)
    else:
        mean_used, variance_used = mean, variance
    return gamma * (x - mean_used) / np.sqrt(variance_used + 1e-5) + beta, mean, variance


def sample_cnn(audio: np.ndarray, layers: list[dict], pool_sizes: tuple[int, ...], training: bool):
    """Encodes [batch, samples] in float64.

    `layers` has, for the stem, the blocks and the last block, `kernel`, `gamma`, `beta`, `mean`, `variance`.
    Returns the remaining frames, [batch, time, 512], and the running statistics of all layers.
    """
    x = audio[..., None].astype(np.float64)
    statistics = []
    for index, layer in enumerate(layers):
        x = convolve(x, layer["kernel"], stride=3 if index == 0 else 1, padding=0 if index == 0 else 1)
        x, mean, variance = normalize(x, layer["gamma"], layer["beta"], layer["mean"], layer["variance"], training)
        statistics.append((mean, variance))
        x = np.maximum(x, 0)
        if 0 < index < len(layers) - 1:
            size = pool_sizes[index - 1]
            num_frames = x.shape[1] // size
            x = x[:, : num_frames * size].reshape(len(x), num_frames, size, -1).max(axis=2)
    return x, statistics
