"""Converts the encoder of a model folder, and its head, to LiteRT and ONNX, with batch normalisation folded in.

    python -m clmr_tf.export.converter FOLDER OUT KIND...

`clmr_tf.export.runtimes` runs this in a separate process, because the converters can abort it. KIND is a key of
`FORMATS` there. The files are written to the folder OUT, each atomically.
"""

import dataclasses
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import tensorflow as tf

from clmr_tf.export.keras_model import read_encoder
from clmr_tf.export.model_folder import gives_tags, read_head, read_manifest
from clmr_tf.export.runtime_formats import FORMATS
from clmr_tf.files import write_atomically
from clmr_tf.models.clip_encoder import ClipEncoder
from clmr_tf.models.heads import Head

# An opset of 2021, which old and new runtimes read.
_ONNX_OPSET = 15
_TAG_NAMES = "tag_names"

Function: TypeAlias = Any
"""A `tf.function`, for which there is no static type."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    folder, out, *kinds = arguments
    network, head = FoldedNetwork(read_encoder(Path(folder))), read_folded_head(Path(folder))
    for kind in kinds:
        file = Path(out) / FORMATS[kind].file
        # 8 bits can cost a head far more accuracy than the encoder, see docs/runtimes.md.
        function = network.function(head, in_8_bits=kind == "int8")
        write_atomically(file, convert(function, kind, head.tag_names if head else ()))


def convert(function: Function, kind: str, tag_names: Sequence[str] = ()) -> bytes:
    """Converts a function to the content of a file.

    Args:
        function: A function with an input signature that contains only constants, no variables.
        kind: Key of `FORMATS`.
        tag_names: Stored as a JSON list: in the ONNX metadata as `tag_names`, or in the zip archive that is appended to
            a .tflite file as `tag_names.json`.
    """
    names = json.dumps(tag_names, ensure_ascii=False) if tag_names else None
    return _onnx(function, names) if kind == "onnx" else _tflite(function, kind, names)


def _tflite(function: Function, kind: str, names: str | None) -> bytes:
    # Safe only without variables: those of a Keras model would be missing, or the process would abort.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    if kind != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    content = converter.convert()
    if names is None:
        return content
    # TensorFlow Lite's metadata files are stored like this. ZipInfo has a fixed date, so equal models give equal files.
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


@dataclasses.dataclass(frozen=True)
class FoldedHead:
    """Dense layers with ReLU between them and sigmoid or softmax after the last.

    Attributes:
        layers: Matrix float32 [in, out] and bias float32 [out] of each layer.
        single_label: Softmax instead of sigmoids.
        tag_names: Names of the outputs.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    single_label: bool
    tag_names: tuple[str, ...]

    @classmethod
    def fold(cls, head: Head, single_label: bool, tag_names: tuple[str, ...]) -> Self:
        """Folds the standardisation of a head into its first layer."""
        in_float32 = [weight.astype(np.float32) for weight in head.folded()]
        return cls(tuple(zip(in_float32[::2], in_float32[1::2], strict=True)), single_label, tag_names)

    def __call__(self, embedding: tf.Tensor, *, as_sums: bool = False) -> tf.Tensor:
        """Embeddings float32 [n, 512] -> probabilities float32 [n, tags].

        Args:
            embedding: Output of the encoder.
            as_sums: Multiply and sum instead of a matrix product, which converters would quantize to 8 bits.
        """
        hidden = embedding
        for number, (matrix, bias) in enumerate(self.layers):
            hidden = tf.nn.relu(hidden) if number else hidden
            product = tf.reduce_sum(hidden[:, :, tf.newaxis] * matrix, axis=1) if as_sums else hidden @ matrix
            hidden = product + bias
        return tf.nn.softmax(hidden) if self.single_label else tf.sigmoid(hidden)


def read_folded_head(folder: Path) -> FoldedHead | None:
    """The head of a model folder; None if the model has no tags.

    Raises:
        UsageError: If manifest or head cannot be read.
    """
    if not gives_tags(folder):
        return None
    manifest = read_manifest(folder)
    return FoldedHead.fold(read_head(folder), manifest["single_label"], tuple(manifest["tag_names"]))


class FoldedNetwork:
    """An encoder without variables, with batch normalisation folded into its layers (`ClipEncoder.folded`).

    Args:
        encoder: A built float32 encoder for clips of exactly `clip_num_samples`.
    """

    def __init__(self, encoder: ClipEncoder) -> None:
        self._encoder = encoder

    def function(
        self, head: FoldedHead | None = None, *, in_8_bits: bool = False
    ) -> tf.types.experimental.PolymorphicFunction:
        """A function from `audio` float32 [n, clip_num_samples] to {"embedding": float32 [n, 512]}.

        Args:
            head: Adds the output "tags", float32 [n, tags].
            in_8_bits: The converter will round constants to 8 bits; values that need more precision are protected from
                that.
        """
        signature = [tf.TensorSpec([None, self._encoder.clip_num_samples], tf.float32, name="audio")]
        encode = self._encoder.folded(in_8_bits=in_8_bits)

        def network(audio: tf.Tensor) -> dict[str, tf.Tensor]:
            embedding = encode(audio)
            return {"embedding": embedding} | ({"tags": head(embedding, as_sums=in_8_bits)} if head else {})

        return tf.function(network, input_signature=signature)


if __name__ == "__main__":
    main(sys.argv[1:])
