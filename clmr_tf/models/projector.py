"""The projector: the head that the contrastive loss sees and that is thrown away after training."""

import keras

PROJECTION_DIM = 64


def build_projector(
    embedding_dim: int = 512, projection_dim: int = PROJECTION_DIM, seed: int | None = None
) -> keras.Model:
    """Makes the two-layer projector: linear, ReLU, linear, without biases (512-512-64 in the released code).

    Input float [batch, embedding_dim], output [batch, projection_dim] in float32 under the mixed policies too, since
    the loss is computed in it. Weights start as PyTorch's linear layers do, uniform within
    1/sqrt(inputs). The thesis' code has a projection of 128.
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
