"""The optimizers by the names of the command line: those of Keras, and four whose decay is part of their step."""

import keras
from keras.optimizers.schedules import LearningRateSchedule

from clmr_tf.optimizers.adamw import AdamW
from clmr_tf.optimizers.lamb import LAMB
from clmr_tf.optimizers.lars import LARS
from clmr_tf.optimizers.nesterov import Nesterov

# Keras has an epsilon of 1e-7, PyTorch 1e-8. Keras' Adam adds it before the bias correction, PyTorch after, which
# differs in the first steps for gradients of about 1e-6 and below.
EPSILON = 1e-8


def build_optimizer(
    name: str, learning_rate: float | LearningRateSchedule, *, weight_decay: float = 1e-6
) -> keras.Optimizer:
    """Makes an optimizer, to be built for its weights.

    Args:
        name: "adam" (the released default), "adamw", "lars", "lamb", "sgd" or "nesterov" (both of momentum 0.9).
        learning_rate: A number, or one for each step, see `learning_rates.py`.
        weight_decay: Of kernels, for "adamw", "lars" and "lamb"; of all weights, for "nesterov"; "adam" and "sgd" have
            none.

    Raises:
        ValueError: If there is no optimizer of this name.
    """
    optimizers = {
        "adam": lambda: keras.optimizers.Adam(learning_rate, epsilon=EPSILON),
        "adamw": lambda: AdamW(learning_rate, epsilon=EPSILON, kernel_decay=weight_decay),
        "lars": lambda: LARS(learning_rate, kernel_decay=weight_decay),
        "lamb": lambda: LAMB(learning_rate, epsilon=EPSILON, kernel_decay=weight_decay),
        "nesterov": lambda: Nesterov(learning_rate, decay=weight_decay),
        "sgd": lambda: keras.optimizers.SGD(learning_rate, momentum=0.9),
    }
    if name not in optimizers:
        raise ValueError(f"name must be one of {list(optimizers)}. Received: {name!r}")
    return optimizers[name]()
