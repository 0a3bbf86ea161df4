"""Converts the encoder of a model folder, and its head, in a process of its own: the converters can abort it.

    python -m clmr_tf.export.converter FOLDER OUT KIND...

KIND is a key of `FORMATS` in `clmr_tf.export.runtimes`. Files are written to the folder OUT one after the other, each
complete or not at all.
"""

import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow as tf

from clmr_tf.export.folded_network import FoldedNetwork, read_folded_head
from clmr_tf.export.model_folder import read_encoder
from clmr_tf.export.runtimes import FORMATS
from clmr_tf.files import write_atomically

# Of 2021, which runtimes of today and of long ago read.
_ONNX_OPSET = 15
_TAG_NAMES = "tag_names"

Function: TypeAlias = Any
"""A `tf.function`, which has no type that a checker knows."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    folder, out, *kinds = arguments
    network, head = FoldedNetwork(read_encoder(Path(folder))), read_folded_head(Path(folder))
    for kind in kinds:
        file = Path(out) / FORMATS[kind].file
        # In 8 bits a head can lose far more than the encoder does, see docs/runtimes.md.
        function = network.function(head, head_as_sums=kind == "int8")
        write_atomically(file, convert(function, kind, head.tag_names if head else ()))


def convert(function: Function, kind: str, tag_names: Sequence[str] = ()) -> bytes:
    """The content of a file.

    Args:
        function: Of constants, with an input signature.
        kind: Word of `FORMATS`.
        tag_names: If any, a JSON list in the file: in ONNX `tag_names` of the metadata, in a .tflite file
            `tag_names.json` of the zip archive that it is as well.
    """
    names = json.dumps(tag_names, ensure_ascii=False) if tag_names else None
    return _onnx(function, names) if kind == "onnx" else _tflite(function, kind, names)


def _tflite(function: Function, kind: str, names: str | None) -> bytes:
    # Safe here, and wrong for a function that holds a Keras model: its weights would be missing or the process abort.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    if kind != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    content = converter.convert()
    if names is None:
        return content
    # An archive behind the model, as TensorFlow Lite has the files of its metadata; a date of its own would make every
    # file another one.
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(f"{_TAG_NAMES}.json"), names)
    return file.getvalue()


def _onnx(function: Function, names: str | None) -> bytes:
    import onnx
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=_ONNX_OPSET)
    if names is not None:
        onnx.helper.set_model_props(model, {_TAG_NAMES: names})
    return model.SerializeToString()


if __name__ == "__main__":
    main(sys.argv[1:])
