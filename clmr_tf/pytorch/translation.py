"""From the weights of the original network to Keras models, and back.

The original's convolutions have a bias and ours none, since the batch normalisation after each subtracts a mean. What
is normalised is convolution + bias - mean, so a mean of (mean - bias) gives the same outputs.
"""

import keras
import numpy as np

from clmr_tf.head import Head
from clmr_tf.models.projector import build_projector
from clmr_tf.models.sample_cnn import EMBEDDING_DIM, SampleCNN, build_encoder, dtype_policy
from clmr_tf.pytorch.layouts import sample_rate_of, width_of
from clmr_tf.pytorch.original_network import OriginalLayer, OriginalNetwork


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
    first = first / head.deviation.astype(np.float64)[:, np.newaxis]
    bias = bias - head.mean.astype(np.float64) @ first
    return tuple(part.T for part in (first, bias, *others))


def _float64(weight: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight).astype(np.float64)
