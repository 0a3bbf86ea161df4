"""The classifier: one linear layer from the embedding to the tags, for the objectives with labels."""

import keras


def build_classifier(num_tags: int, embedding_dim: int = 512, seed: int | None = None) -> keras.Model:
    """Makes the last layer of the supervised SampleCNN, `fc` in the released code.

    Input float [batch, embedding_dim], output logits [batch, num_tags] in float32 under the mixed policies too, since
    the loss is computed in it. Weights and biases start as PyTorch's linear layers do, uniform within 1/sqrt(inputs).
    """
    bound = embedding_dim**-0.5

    def uniform(offset: int) -> keras.initializers.Initializer:
        return keras.initializers.RandomUniform(-bound, bound, seed=None if seed is None else seed * 16 + offset)

    return keras.Sequential(
        [
            keras.Input((embedding_dim,)),
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
