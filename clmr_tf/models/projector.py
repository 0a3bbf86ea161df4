"""The networks that are trained on top of an encoder: projector and classifier."""

import keras

from clmr_tf.models import EMBEDDING_DIM

PROJECTION_DIM = 64


def build_projector(
    embedding_dim: int = 512, projection_dim: int = PROJECTION_DIM, seed: int | None = None
) -> keras.Model:
    """Builds the two-layer projector: linear, ReLU, linear, without biases (512-512-64 in the released code).

    Input float [batch, embedding_dim], output float32 [batch, projection_dim], under mixed precision as well, since the
    loss is computed in float32. Initial weights are those of PyTorch's linear layers, uniform within 1/sqrt(inputs).
    The code of the thesis has a projection of 128.
    """

    def linear(units: int, name: str, offset: int, **kwargs) -> keras.layers.Dense:
        initializer = keras.initializers.VarianceScaling(
            scale=1 / 3, mode="fan_in", distribution="uniform", seed=None if seed is None else seed * 16 + offset
        )
        return keras.layers.Dense(units, use_bias=False, kernel_initializer=initializer, name=name, **kwargs)

    return keras.Sequential(
        [
            keras.Input((embedding_dim,)),
            linear(embedding_dim, "hidden", 12, activation="relu"),
            linear(projection_dim, "projection", 13, dtype=keras.config.dtype_policy().variable_dtype),
        ],
        name="projector",
    )


def build_classifier(num_tags: int, seed: int | None = None) -> keras.Model:
    """Builds the last layer of the supervised SampleCNN, `fc` in the released code.

    Input float [batch, 512], output logits float32 [batch, num_tags], under mixed precision as well, since the loss is
    computed in float32. Initial weights and biases are those of PyTorch's linear layers, uniform within 1/sqrt(inputs).
    """
    bound = EMBEDDING_DIM**-0.5

    def uniform(offset: int) -> keras.initializers.Initializer:
        return keras.initializers.RandomUniform(-bound, bound, seed=None if seed is None else seed * 16 + offset)

    return keras.Sequential(
        [
            keras.Input((EMBEDDING_DIM,)),
            keras.layers.Dense(
                num_tags,
                kernel_initializer=uniform(14),
                bias_initializer=uniform(15),
                name="logits",
                dtype=keras.config.dtype_policy().variable_dtype,
            ),
        ],
        name="classifier",
    )
