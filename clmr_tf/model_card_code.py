"""How a model folder is loaded, in every runtime that it has a file for: the code of the model card."""

import json
from typing import Any

_PACKAGE = """\
With this package, any file of any rate and length:
```python
import clmr_tf

encoder = clmr_tf.load_encoder(".", check=True)  # also holds the SavedModel to the golden numbers
embedding = encoder.embed("song.mp3", hop_seconds=1.0)
embedding.times_seconds, embedding.vectors  # [n], [n, {dimensions}]
```
"""

_TENSORFLOW = """\
With TensorFlow alone:
```python
import numpy as np
import tensorflow as tf

golden = np.load("golden.npz")
serve = tf.saved_model.load("saved_model").signatures["serving_default"]
embedding = serve(audio=tf.constant(golden["audio"]))["embedding"].numpy()
assert np.abs(embedding - golden["embedding"]).max() <= 1e-4 * np.abs(golden["embedding"]).max()
```
"""

_SERVING = """\
With TensorFlow Serving; a request to `http://localhost:8501/v1/models/{name}:predict` is
`{{"inputs": {{"audio": [[... {clip} samples ...]]}}}}`:
```sh
docker run --rm -p 8501:8501 -e MODEL_NAME={name} \\
    --mount type=bind,source="$PWD/saved_model",target=/models/{name}/1 tensorflow/serving
```
"""

_LITERT = """\
With LiteRT (`pip install ai-edge-litert`), on telephones and without TensorFlow{others}:
```python
{imports}import numpy as np
from ai_edge_litert.interpreter import Interpreter

golden = np.load("golden.npz")
run = Interpreter("{file}").get_signature_runner()
outputs = run(audio=golden["audio"])
embedding = outputs["embedding"]
{check}{tags}
```
"""

_LITERT_TAGS = """
tags = outputs["tags"]
tag_names = json.loads(zipfile.ZipFile("{file}").read("tag_names.json"))
likeliest = [tag_names[column] for column in tags.argmax(axis=1)]  # tags [n, {num_tags}] are probabilities"""

_ONNX = """\
With ONNX Runtime (`pip install onnxruntime`):
```python
{imports}import numpy as np
import onnxruntime

golden = np.load("golden.npz")
session = onnxruntime.InferenceSession("model.onnx")
[{outputs}] = session.run({names}, {{"audio": golden["audio"]}})
{check}{tags}
```
"""

_ONNX_TAGS = """
tag_names = json.loads(session.get_modelmeta().custom_metadata_map["tag_names"])
likeliest = [tag_names[column] for column in tags.argmax(axis=1)]  # tags [n, {num_tags}] are probabilities"""

_IS_EQUAL = 'assert np.abs(embedding - golden["embedding"]).max() <= {allowed} * np.abs(golden["embedding"]).max()'
_IS_ALIKE = """\
lengths = np.linalg.norm(embedding, axis=1) * np.linalg.norm(golden["embedding"], axis=1)
assert ((embedding * golden["embedding"]).sum(axis=1) / lengths).min() >= 0.995"""


def loading_section(manifest: dict[str, Any]) -> str:
    """The section of a model card that says how to load the model; its Python runs in the model folder.

    Args:
        manifest: Of the model folder.
    """
    parts = [
        "## How to load it\nAll of this in this folder. `golden.npz` stands for audio of your own.\n",
        _PACKAGE.format(dimensions=manifest["output"]["dimensions"]),
        _TENSORFLOW,
        _SERVING.format(name=manifest["name"], clip=manifest["input"]["clip_num_samples"]),
    ]
    written = manifest.get("runtimes", {})
    tflite = [name for name in written if name.endswith(".tflite")]
    if tflite:
        parts.append(_litert_section(tflite, manifest))
    if "model.onnx" in written:
        parts.append(_onnx_section(manifest))
    return "\n".join(parts)


def _litert_section(files: list[str], manifest: dict[str, Any]) -> str:
    first, *others = files
    has_tags = "tags" in _outputs_of(first, manifest)
    return _LITERT.format(
        file=first,
        others=f"; the same with {' and '.join(f'`{name}`' for name in others)}" if others else "",
        imports="import json\nimport zipfile\n\n" if has_tags else "",
        check=_IS_ALIKE if "int8" in first else _IS_EQUAL.format(allowed="5e-3" if "fp16" in first else "1e-3"),
        tags=_LITERT_TAGS.format(file=first, num_tags=len(manifest["tag_names"])) if has_tags else "",
    )


def _onnx_section(manifest: dict[str, Any]) -> str:
    outputs = _outputs_of("model.onnx", manifest)
    has_tags = "tags" in outputs
    return _ONNX.format(
        imports="import json\n\n" if has_tags else "",
        outputs=", ".join(outputs),
        names=json.dumps(outputs),
        check=_IS_EQUAL.format(allowed="1e-3"),
        tags=_ONNX_TAGS.format(num_tags=len(manifest["tag_names"])) if has_tags else "",
    )


def _outputs_of(file: str, manifest: dict[str, Any]) -> list[str]:
    # Older files had one, and their description says nothing of it.
    return manifest["runtimes"][file].get("outputs", ["embedding"])
