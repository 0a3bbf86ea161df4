"""Counts the multiplications and additions of a network in its graph."""

import math

import keras
import tensorflow as tf


def forward_flop(model: keras.Model, input_shape: tuple[int, ...]) -> int:
    """Multiplications and additions of the convolutions and matrix products of a network at inference, for one input.

    Args:
        model: A built model.
        input_shape: Shape of one input, without the batch dimension.

    Raises:
        ValueError: If a shape in the graph is not static.
    """
    function = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec([1, *input_shape], tf.float32)).graph
    return sum(_flop_of(operation) for operation in graph.get_operations())


def _flop_of(operation: tf.Operation) -> int:
    if operation.type == "Conv2D":
        kernel = operation.inputs[1].shape
        return 2 * _size(operation.outputs[0].shape) * _size(kernel[:-1])
    if operation.type in ("MatMul", "BatchMatMulV2"):
        is_transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
        return 2 * _size(operation.outputs[0].shape) * operation.inputs[0].shape[-2 if is_transposed else -1]
    return 0


def _size(shape: tf.TensorShape) -> int:
    if not shape.is_fully_defined():
        raise ValueError(f"Every shape in the graph must be static. Received: {shape}")
    return math.prod(shape)
