"""Converts the encoder of a model folder, in a process of its own: the converters can abort it.

    python -m clmr_tf.runtimes.converter FOLDER OUT KIND...

KIND is a word of `formats.FORMATS`. The files come into the folder OUT one after the other, each whole or not at all.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Both write what they are about to do.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from clmr_tf.model_folder import read_encoder
from clmr_tf.runtimes.folded_network import FoldedNetwork
from clmr_tf.runtimes.formats import FORMATS

# Of 2021, which runtimes of today and of long ago read.
_ONNX_OPSET = 15

Function = tf.types.experimental.PolymorphicFunction


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    folder, out, *kinds = arguments
    function = FoldedNetwork(read_encoder(Path(folder))).function()
    for kind in kinds:
        file = Path(out) / FORMATS[kind].file
        draft = file.with_name(f"{file.name}.draft")
        if kind == "onnx":
            _write_onnx(function, draft)
        else:
            draft.write_bytes(_tflite(function, kind))
        draft.rename(file)


def _tflite(function: Function, kind: str) -> bytes:
    # Safe here, and wrong for a function that holds a Keras model: its weights would be missing or the process abort.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    if kind != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _write_onnx(function: Function, file: Path) -> None:
    import tf2onnx

    tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=_ONNX_OPSET, output_path=str(file)
    )


if __name__ == "__main__":
    main(sys.argv[1:])
