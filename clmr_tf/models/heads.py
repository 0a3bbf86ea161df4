"""Trained classifiers on embeddings, in NumPy."""

import dataclasses
from pathlib import Path

import numpy as np

from clmr_tf.files import UnreadableArraysError, read_arrays


@dataclasses.dataclass(frozen=True)
class Head:
    """A trained linear or MLP classifier on embeddings.

    Attributes:
        mean: Subtracted from the features, float32 [dimensions].
        standard_deviation: Then divides them, float32 [dimensions].
        weights: A matrix [in, out] and a bias [out] for each layer, float32.
    """

    mean: np.ndarray
    standard_deviation: np.ndarray
    weights: tuple[np.ndarray, ...]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Scores before sigmoid or softmax: float32 [examples, dimensions] -> float32 [examples, tags]."""
        hidden = (features - self.mean) / self.standard_deviation
        for layer in range(0, len(self.weights), 2):
            hidden = np.maximum(hidden, 0) if layer else hidden
            hidden = hidden @ self.weights[layer] + self.weights[layer + 1]
        return hidden

    def folded(self) -> tuple[np.ndarray, ...]:
        """The weights, float64, of the same head without standardisation: it is folded into the first layer."""
        matrix, bias, *others = (part.astype(np.float64) for part in self.weights)
        matrix = matrix / self.standard_deviation.astype(np.float64)[:, np.newaxis]
        return (matrix, bias - self.mean.astype(np.float64) @ matrix, *others)

    def save(self, path: Path) -> None:
        """Writes the head as an .npz file."""
        layers = {f"weights_{number}": weights for number, weights in enumerate(self.weights)}
        np.savez(path, mean=self.mean, standard_deviation=self.standard_deviation, **layers)

    @classmethod
    def load(cls, path: Path) -> "Head":
        """Reads a file written by `save`.

        Raises:
            UnreadableArraysError: If it is another file, or its arrays do not match.
        """
        arrays = read_arrays(path)
        names = [f"weights_{number}" for number in range(len(arrays) - 2)]
        if any(name not in arrays or arrays[name].dtype.kind != "f" for name in ("mean", "standard_deviation", *names)):
            raise UnreadableArraysError(f"it contains {', '.join(arrays)}, not the float arrays of a head")
        head = cls(arrays["mean"], arrays["standard_deviation"], tuple(arrays[name] for name in names))
        if not head._fits_together():
            raise UnreadableArraysError("its layers do not match")
        return head

    @property
    def num_features(self) -> int:
        """Number of dimensions of the features."""
        return len(self.mean)

    @property
    def num_outputs(self) -> int:
        """Number of logits."""
        return len(self.weights[-1])

    def _fits_together(self) -> bool:
        size = self.mean.shape
        fits = len(size) == 1 and self.standard_deviation.shape == size and len(self.weights) % 2 == 0
        for matrix, offset in zip(self.weights[::2], self.weights[1::2], strict=False):
            fits = fits and matrix.ndim == 2 and matrix.shape == size + offset.shape
            size = offset.shape
        return fits


def head_file_of(result_file: Path) -> Path:
    """The file of the head of a result, next to the result."""
    return result_file.with_suffix(".npz")


def probabilities(logits: np.ndarray, single_label: bool) -> np.ndarray:
    """Softmax over the tags, or a sigmoid of each: float64 [examples, tags] -> the same."""
    if single_label:
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)
    # Does not overflow for large negative logits.
    return np.exp(-np.logaddexp(0, -logits))
