"""The optimizers by the names of the command line."""

import keras


def build_optimizer(name: str, learning_rate: float) -> keras.Optimizer:
    """Makes "adam" (the released default), "adamw", "lamb" or "sgd" (momentum 0.9)."""
    if name == "sgd":
        return keras.optimizers.SGD(learning_rate, momentum=0.9)
    optimizers = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "lamb": keras.optimizers.Lamb}
    if name not in optimizers:
        raise ValueError(f"name must be one of {[*optimizers, 'sgd']}. Received: {name!r}")
    # Keras has an epsilon of 1e-7, PyTorch 1e-8. Keras adds it before the bias correction, PyTorch after, which
    # differs in the first steps for gradients of about 1e-6 and below.
    return optimizers[name](learning_rate, epsilon=1e-8)
