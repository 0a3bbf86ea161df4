"""What the optimizers that look at a whole weight share: which weights are kernels, and the trust ratio."""

import tensorflow as tf


def is_kernel(weight: tf.Variable) -> bool:
    """Whether a weight is decayed and adapted: kernels are; biases, and scales and offsets of normalisation, are not.

    Told by the rank, since the variable that an optimizer is handed has lost its name. By name, SimCLR's LARS and the
    LAMB of ALBERT leave out the same ones.
    """
    return weight.shape.rank > 1


def trust_ratio(weight: tf.Tensor, update: tf.Tensor, coefficient: float = 1.0) -> tf.Tensor:
    """`coefficient` ‖weight‖ / ‖update‖, a scalar; 1 where either is zero.

    The norms are Euclidean, over all elements. A ratio of 0 would keep a weight that starts at zero there for ever.
    """
    weight_norm, update_norm = tf.norm(weight), tf.norm(update)
    ratio = coefficient * tf.math.divide_no_nan(weight_norm, update_norm)
    return tf.where((weight_norm > 0) & (update_norm > 0), ratio, tf.ones_like(ratio))
