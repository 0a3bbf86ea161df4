"""The files for other runtimes that a model folder can hold, and how near to the encoder each must come.

The integers of int8 are scaled by the range of each activation as it comes, not by ranges that were measured on music
before: those have to leave room for the loudest passage, and the rest is lost in the steps. What both cost is in
docs/runtimes.md.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RuntimeFormat:
    """One kind of file.

    Attributes:
        file: Its name in the model folder.
        title: What it is, for the manifest and the model card.
        bytes_per_weight: Size of a weight of the encoder in it.
        bytes_per_head_weight: Size of a weight of the head.
        converters: Packages that write it, beside TensorFlow.
        runtime: Package that runs it.
        largest_error: Of its embedding, relative to the largest golden value; None where only the cosine counts.
        least_cosine: Of the embedding of every golden clip to the golden one.
        largest_head_error: Of the probability of any tag, to what the head gives for the embedding of the same file.
    """

    file: str
    title: str
    bytes_per_weight: int
    bytes_per_head_weight: int
    converters: tuple[str, ...]
    runtime: str
    largest_error: float | None
    least_cosine: float
    largest_head_error: float


LITERT, ONNX_RUNTIME = "ai-edge-litert", "onnxruntime"

TFLITE_FORMATS = {
    "fp32": RuntimeFormat("model.tflite", "LiteRT, float32", 4, 4, (), LITERT, 1e-3, 0.9999, 1e-3),
    # Every weight is off by up to 2^-11; in the encoder of 300 steps on the demo corpus that came to 1.3e-3 together.
    "fp16": RuntimeFormat("model-fp16.tflite", "LiteRT, weights in float16", 2, 2, (), LITERT, 5e-3, 0.9999, 5e-3),
    "int8": RuntimeFormat(
        "model-int8.tflite", "LiteRT, convolutions in 8-bit integers", 1, 4, (), LITERT, None, 0.995, 1e-3
    ),
}
ONNX_FORMAT = RuntimeFormat("model.onnx", "ONNX, float32", 4, 4, ("tf2onnx", "onnx"), ONNX_RUNTIME, 1e-3, 0.9999, 1e-3)
FORMATS = {**TFLITE_FORMATS, "onnx": ONNX_FORMAT}
"""Every kind of file by the word that asks for it."""
