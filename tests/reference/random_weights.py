"""Random values for the weights of an encoder, so that no layer is the identity."""

import keras
import numpy as np

RANGES = {
    "gamma": (0.5, 1.5),
    "beta": (-0.5, 0.5),
    "moving_mean": (-0.3, 0.3),
    "moving_variance": (0.3, 2.0),
}


def randomize(model: keras.Model) -> None:
    """Draws scale, offset and statistics of every normalisation; kernels keep their initial values."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in RANGES:
            variable.assign(generator.uniform(*RANGES[variable.name], variable.shape))


def normalization_of(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    """The arrays of a normalisation for `tests.reference.sample_cnn.normalize`."""
    names = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "variance": "moving_variance"}
    return {name: getattr(layer, attribute).numpy() for name, attribute in names.items()}
