"""TUNe in NumPy, layer by layer as in the table of its publication: convolution, normalisation, ReLU, pooling."""

import numpy as np

from tests.reference.sample_cnn import convolve, normalize


def tune(audio: np.ndarray, layers: list[dict], expansions: list[dict], feeds_tail: bool, training: bool):
    """Encodes [batch, samples] in float64.

    `layers` has, for c1 to c18, `kernel`, `gamma`, `beta`, `mean`, `variance`; `expansions`, for the transposed
    convolutions before c6 to c9, `kernel` [3, in, out] and `bias`. Returns the embedding, the running statistics of
    all layers, and the lengths of c1 to c18.
    """
    statistics, c = [], {}

    def layer(number: int, x: np.ndarray) -> np.ndarray:
        one = layers[number - 1]
        x = convolve(x, one["kernel"], padding=1)
        x, mean, variance = normalize(x, one["gamma"], one["beta"], one["mean"], one["variance"], training)
        statistics.append((mean, variance))
        c[number] = np.maximum(x, 0)
        return c[number]

    def pool(x: np.ndarray) -> np.ndarray:
        return np.stack([x[:, start : start + 3].max(axis=1) for start in range(0, x.shape[1] - 2, 3)], axis=1)

    def transposed(number: int, x: np.ndarray) -> np.ndarray:
        one, frames = expansions[number - 6], np.zeros((len(x), 3 * x.shape[1], expansions[number - 6]["bias"].size))
        for tap in range(3):
            frames[:, tap::3] = x @ one["kernel"][tap] + one["bias"]
        return frames

    x = np.pad(audio.astype(np.float64), ((0, 0), (0, -audio.shape[1] % 81)))[..., None]
    layer(1, x)
    for number in (2, 3, 4, 5):
        layer(number, pool(c[number - 1]))
    for number, skipped in ((6, 4), (7, 3), (8, 2), (9, 1)):
        layer(number, np.concatenate([transposed(number, c[number - 1]), c[skipped]], axis=2))
    for number, fed in ((10, 8), (11, 7), (12, 6), (13, 5)):
        pooled = pool(c[number - 1])
        layer(number, np.concatenate([pooled, c[fed]], axis=2) if feeds_tail else pooled)
    for number in (14, 15, 16, 17, 18):
        layer(number, pool(c[number - 1]))
    return c[18].mean(axis=1), statistics, [c[number].shape[1] for number in range(1, 19)]
