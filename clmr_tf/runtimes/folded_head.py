"""A head as a function of constants: standardisation inside its first layer, and probabilities at its end."""

import dataclasses
from pathlib import Path
from typing import Self

import numpy as np
import tensorflow as tf

from clmr_tf.head import Head
from clmr_tf.model_folder import gives_tags, read_head
from clmr_tf.model_manifest import read_manifest


@dataclasses.dataclass(frozen=True)
class FoldedHead:
    """Layers with a rectifier between them, and sigmoid or softmax after the last.

    Attributes:
        layers: Of each a matrix float32 [in, out] and an offset float32 [out].
        single_label: Softmax over the tags, which exclude each other; else a sigmoid of each.
        tag_names: Of the outputs.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    single_label: bool
    tag_names: tuple[str, ...]

    @classmethod
    def fold(cls, head: Head, single_label: bool, tag_names: tuple[str, ...]) -> Self:
        """Takes mean and deviation of a head into its first matrix and offset."""
        weights = [weight.astype(np.float64) for weight in head.weights]
        weights[0] = weights[0] / head.deviation.astype(np.float64)[:, np.newaxis]
        weights[1] = weights[1] - head.mean.astype(np.float64) @ weights[0]
        in_float32 = [weight.astype(np.float32) for weight in weights]
        return cls(tuple(zip(in_float32[::2], in_float32[1::2], strict=True)), single_label, tag_names)

    @property
    def num_weights(self) -> int:
        """How many numbers a file of this head has to hold."""
        return sum(matrix.size + offset.size for matrix, offset in self.layers)

    def __call__(self, embedding: tf.Tensor, *, as_sums: bool = False) -> tf.Tensor:
        """Embeddings float32 [n, dimensions] -> probabilities float32 [n, tags].

        Args:
            embedding: Of the network before it.
            as_sums: Write the products and their sum one by one, which no converter makes 8-bit integers of.
        """
        hidden = embedding
        for number, (matrix, offset) in enumerate(self.layers):
            hidden = tf.nn.relu(hidden) if number else hidden
            product = tf.reduce_sum(hidden[:, :, tf.newaxis] * matrix, axis=1) if as_sums else hidden @ matrix
            hidden = product + offset
        return tf.nn.softmax(hidden) if self.single_label else tf.sigmoid(hidden)


def read_folded_head(folder: Path) -> FoldedHead | None:
    """The head of a model folder; None if the model gives no tags.

    Raises:
        UsageError: If manifest or head cannot be read.
    """
    if not gives_tags(folder):
        return None
    manifest = read_manifest(folder)
    return FoldedHead.fold(read_head(folder), manifest["single_label"], tuple(manifest["tag_names"]))
