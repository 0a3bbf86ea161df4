"""The model card: describes the manifest, and shows code that loads the model. Both are written together."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.config.train import CHANGEABLE_ON_RESUME, changed_settings
from clmr_tf.export.model_folder import (
    CARD_FILE,
    MANIFEST_FILE,
    PARTS_OF_CARDS,
    read_golden,
    read_manifest,
    require_parts,
)
from clmr_tf.files import write_atomically

_PACKAGE = """\
With this package, for audio files of any format, rate and length:
```python
import clmr_tf

encoder = clmr_tf.load_encoder(".")  # in any runtime that is installed; checked against the golden numbers
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
With LiteRT (`pip install ai-edge-litert`), without TensorFlow and on phones{others}:
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

_WEB = """\
In a browser, with {runtime}{cdn}; `web/` also works on any other web server:
```sh
python -m http.server --directory web   # then open http://localhost:8000
```
"""

_IS_EQUAL = 'assert np.abs(embedding - golden["embedding"]).max() <= {allowed} * np.abs(golden["embedding"]).max()'
_IS_SIMILAR = """\
lengths = np.linalg.norm(embedding, axis=1) * np.linalg.norm(golden["embedding"], axis=1)
assert ((embedding * golden["embedding"]).sum(axis=1) / lengths).min() >= 0.995"""


def loading_section(manifest: dict[str, Any]) -> str:
    """The section on how to load the model; its Python code runs in the model folder.

    Args:
        manifest: The manifest of the model folder.
    """
    parts = [
        "## How to load it\n"
        "Run this code in this folder. It uses the audio in `golden.npz`; replace it with your own.\n",
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
    if "web" in manifest:
        cdn = ", which the browser fetches from a CDN" if manifest["web"]["source"] == "cdn" else ""
        parts.append(_WEB.format(runtime=manifest["web"]["runtime"], cdn=cdn))
    return "\n".join(parts)


def _litert_section(files: list[str], manifest: dict[str, Any]) -> str:
    first, *others = files
    has_tags = "tags" in _outputs_of(first, manifest)
    return _LITERT.format(
        file=first,
        others=f"; the same with {' and '.join(f'`{name}`' for name in others)}" if others else "",
        imports="import json\nimport zipfile\n\n" if has_tags else "",
        check=_IS_SIMILAR if "int8" in first else _IS_EQUAL.format(allowed="5e-3" if "fp16" in first else "1e-3"),
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
    return manifest["runtimes"][file]["outputs"]


def _taught_section(tags: dict[str, Any]) -> str:
    lines = [
        "## Tag head",
        "Logistic regressions on the frozen embedding, taught with a few songs by `python -m clmr_tf.teach`. The "
        "precision is cross-validated on those songs.",
        "",
        "| tag | yes | no | precision | 95 % |",
        "|---|---|---|---|---|",
    ]
    for name, tag in tags.items():
        one = tag["precision"]
        precision = f"{one['estimate']:.2f} | {one['low']:.2f} to {one['high']:.2f}" if one else "unknown | "
        cell = name.replace("|", "&#124;")
        lines.append(f"| {cell} | {tag['yes']} | {tag['no']} | {precision} |")
    return "\n".join(lines) + "\n"


def head_section(head: dict[str, Any] | None) -> str:
    """The section on a head that a probe trained or a person taught; empty for other models.

    Args:
        head: The entry "head" of the manifest.
    """
    if head is None:
        return ""
    if "taught" in head:
        return _taught_section(head["taught"])
    corpus, test = head["corpus"], head["test"]
    labels, protocol = head["labels"], head["protocol"]["head"] or {}
    kind = f"one hidden layer of {protocol['hidden_units']}" if protocol.get("hidden_units") else "linear"
    lines = [
        "## Tag head",
        f"Trained on the frozen embedding by `python -m clmr_tf.probe`, preset `{head['preset']}`, "
        f"{kind}, seed {head['seed']}, with the labels of {labels['num_clips']} clips of {labels['num_songs']} songs "
        f"of the corpus {corpus['name']} (fingerprint `{corpus['fingerprint']}`)"
        + _task_sentence(head.get("task"))
        + f" On the {test['num_clips']} clips of {test['num_songs']} songs of its test split:",
        "",
        "| metric | score | 95 % |",
        "|---|---|---|",
    ]
    scores = {"accuracy": test.get("accuracy")}
    for metric, words in (("roc_auc", "ROC-AUC"), ("average_precision", "average precision")):
        scores[f"{words} over tags"] = test.get(metric, {}).get("over_tags")
    lines += [
        f"| {name} | {score['mean']:.3f} | {_interval(score['interval'])} |"
        for name, score in scores.items()
        if score and score["mean"] is not None
    ]
    return "\n".join(lines) + "\n"


def _task_sentence(task: dict[str, Any] | None) -> str:
    if task is None:
        return "."
    if "description" not in task:
        return f", task {task['name']}."
    return f", task {task['name']}. Its description: {task['description'].rstrip('.')}."


def scores_section(scores: dict[str, Any]) -> str:
    """The scores of probes.

    Args:
        scores: The entry "scores" of the manifest.
    """
    if not scores:
        return "## Scores\nNone yet; `python -m clmr_tf.probe --model FOLDER --corpus NAME` adds one here.\n"
    others = {other for score in scores.values() for other in score.get("differences", {})}
    features = ", *musicnn* the features of a network trained with the labels of MagnaTagATune"
    musicnn = features if "musicnn" in others else ""
    lines = [
        "## Scores",
        "Scores of classifiers on the frozen embedding, and of retrieval, with 95 % intervals over songs. The last "
        "column is the score minus that of other features on the same songs: *untrained* is the same network with "
        f"random weights, *mel* the mean and standard deviation of a log-mel spectrogram{musicnn}.",
        "",
        "| corpus and protocol | split | metric | score | 95 % | minus other features |",
        "|---|---|---|---|---|---|",
    ]
    for name, score in sorted(scores.items()):
        value = score.get("mean")
        interval = _interval(score.get("interval"))
        shown = "" if value is None else f"{value:.3f}"
        differences = ", ".join(
            f"{other} {one['mean']:+.3f} ({_interval(one['interval'], signed=True)})"
            for other, one in score.get("differences", {}).items()
            if one["mean"] is not None
        )
        cells = name, score.get("split", ""), score.get("metric", ""), shown, interval, differences
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(low_high: list[float] | None, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{low_high[0]:{sign}.3f} to {low_high[1]:{sign}.3f}" if low_high else ""


_NUM_GOLDEN_NUMBERS = 5
# Differences of probabilities below this are rounding errors.
_MIN_TAG_ERROR = 1e-4
_RELEASED_CODE = "[the code of the paper](https://github.com/Spijkervet/CLMR)"
_PAPER = "[Spijkervet and Burgoyne, ISMIR 2021](https://arxiv.org/abs/2103.09410)"


def model_card(manifest: dict[str, Any], golden_embedding: np.ndarray) -> str:
    """Writes the card.

    Args:
        manifest: The manifest of the model folder; sections without data are left out.
        golden_embedding: Embeddings of the golden clips, float32 [clips, dimensions].

    Returns:
        Markdown with a metadata header. Its Python code runs in the model folder.
    """
    sections = (
        _metadata(manifest),
        _introduction(manifest),
        _data_section(manifest),
        _training_section(manifest["training"]),
        head_section(manifest.get("head")),
        scores_section(manifest["scores"]),
        _speed_section(manifest),
        _limits_section(manifest),
        loading_section(manifest),
        _golden_section(golden_embedding),
    )
    return "\n".join(section for section in sections if section)


def _metadata(manifest: dict[str, Any]) -> str:
    licence = manifest["licence"]
    known = "unknown" if licence == "unspecified" else licence.lower()
    tags = [
        "music",
        "audio",
        "representation-learning",
        *(["contrastive-learning"] if _is_contrastive(manifest) else []),
    ]
    words = "".join(f"- {tag}\n" for tag in tags)
    return f"---\nlicense: {json.dumps(known)}\nlibrary_name: clmr_tf\ntags:\n{words}---\n"


def _is_contrastive(manifest: dict[str, Any]) -> bool:
    return manifest["training"].get("config", {}).get("objective") == "contrastive"


def _introduction(manifest: dict[str, Any]) -> str:
    clip, rate = manifest["input"]["clip_num_samples"], manifest["input"]["sample_rate_hz"]
    architecture, dimensions = manifest["architecture"], manifest["output"]["dimensions"]
    width, num_tags = architecture["arguments"].get("width", 1.0), len(manifest["tag_names"])
    encoder = architecture["arguments"].get("encoder")
    option = f" (`--encoder {encoder}`)" if encoder else ""
    command = "convert" if "converted_from" in manifest["training"] else "export"
    tags = f", `tags` float32 [n, {num_tags}], probabilities in this order" if num_tags else ""
    lines = [
        f"# {manifest['name']}",
        f"Encodes {clip / rate:.2f} s of music as {dimensions} numbers, the input of linear classifiers. An encoder "
        f"as in CLMR, Contrastive Learning of Musical Representations ({_PAPER}): "
        f"{architecture['class']}{option} of width {width:g}.",
        "",
        f"This file is written by `python -m clmr_tf.{command}` from `manifest.json`, and updated with every new "
        "score.",
        "",
        "| | |",
        "|---|---|",
        f"| input | `audio` float32 [n, {clip}], mono, {rate:,} Hz, in [-1, 1] |",
        f"| output | `embedding` float32 [n, {dimensions}]{tags} |",
        *([f"| tags | {', '.join(manifest['tag_names'])} |"] if manifest["tag_names"] else []),
        f"| licence of the weights | {manifest['licence']} |",
    ]
    return "\n".join(lines) + "\n"


def _data_section(manifest: dict[str, Any]) -> str:
    corpus = manifest["training"].get("run", {}).get("corpus")
    if not corpus:
        return ""
    lines = ["## Data", f"Trained on the train split of the corpus {corpus['name']}."]
    if corpus.get("description"):
        lines[-1] += f" Its description: {corpus['description']}."
    hours = corpus.get("hours", {})
    lines += ["", "| split | recordings | songs | hours |", "|---|---|---|---|"]
    for split, num_items in corpus.get("num_items", {}).items():
        length = f"{hours[split]:.2f}" if split in hours else "not recorded"
        lines.append(f"| {split} | {num_items} | {corpus['num_songs'][split]} | {length} |")
    lines += ["", f"Fingerprint of the corpus: `{corpus['fingerprint']}`."]
    return "\n".join(lines) + "\n"


def _training_section(training: dict[str, Any]) -> str:
    lines = ["## Training"]
    config = training.get("config")
    if "converted_from" in training:
        return "\n".join([*lines, *_conversion_lines(training["converted_from"])]) + "\n"
    if config is None:
        return "\n".join([*lines, f"{training['step']:,} steps; nothing else is recorded."]) + "\n"
    objective = config["objective"]
    lines.append(
        f"{training['step']:,} steps of {config['batch_size']} examples with the objective `{objective}`, seed "
        f"{config['seed']}. {_settings_sentence(config)}"
    )
    for start in training.get("run", {}).get("starts", [])[-1:]:
        versions = start["versions"]
        hardware = f"{start['hardware']['num_cpus']} CPUs and {', '.join(start['hardware']['gpus']) or 'no GPU'}"
        lines += [
            "",
            f"By clmr_tf {versions['clmr_tf']} (revision {start['git_revision'] or 'unknown'}) with TensorFlow "
            f"{versions['tensorflow']} and Keras {versions['keras']} on {hardware}.",
        ]
    return "\n".join(lines) + "\n"


def _conversion_lines(origin: dict[str, Any]) -> list[str]:
    recorded = ", ".join(
        f"{words} {origin[name]}"
        for name, words in (("epoch", "epoch"), ("global_step", "step"), ("pytorch-lightning_version", "Lightning"))
        if name in origin
    )
    return [
        f"Trained by {_RELEASED_CODE} or code that writes such checkpoints, and converted by "
        f"`python -m clmr_tf.convert`. The keys are `{origin['layout']}`. "
        + (f"The checkpoint records: {recorded}." if recorded else "The checkpoint records nothing about training."),
        "",
        "| part | file | SHA-256 |",
        "|---|---|---|",
        *(
            f"| {name} | {part['file']} | `{part['sha256']}` |"
            for name, part in origin.items()
            if isinstance(part, dict)
        ),
    ]


def _settings_sentence(config: dict[str, Any]) -> str:
    described_elsewhere = CHANGEABLE_ON_RESUME | {"seed", "objective"}
    changed = [
        f"`--{name.replace('_', '-')} {_option(value)}`"
        for name, value in changed_settings(config).items()
        if name not in described_elsewhere and value is not None
    ]
    if not changed:
        return "Every other setting is the default of `python -m clmr_tf.train`."
    return f"Differences from the defaults of `python -m clmr_tf.train`: {', '.join(changed)}."


def _option(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _limits_section(manifest: dict[str, Any]) -> str:
    clip, rate = manifest["input"]["clip_num_samples"], manifest["input"]["sample_rate_hz"]
    limits = [
        f"Takes mono windows of {clip / rate:.2f} s with frequencies up to {rate / 2000:g} kHz. The embedding of a "
        "recording is the mean over its windows.",
        "Audio at another rate must be resampled first; otherwise the embeddings are wrong without an error.",
    ]
    corpus = manifest["training"].get("run", {}).get("corpus")
    if corpus and "train" in corpus.get("num_songs", {}):
        limits.append(
            f"Trained on {corpus['num_songs']['train']} songs of one corpus. Only the scores above show how well it "
            "works on other music."
        )
    limits += [
        f"`{name}` is an approximation: the cosine of its embeddings with the encoder's is at least "
        f"{runtime['least_cosine']:.4f} on the golden clips, and can be lower on music."
        for name, runtime in manifest.get("runtimes", {}).items()
        if runtime.get("least_cosine", 1) < 0.9999
    ]
    limits += [
        f"The tag probabilities of `{name}` differ from the encoder's by up to {runtime['largest_tag_error']:.2g} on "
        "the golden clips."
        for name, runtime in manifest.get("runtimes", {}).items()
        if runtime.get("largest_tag_error", 0) >= _MIN_TAG_ERROR
    ]
    return "## Limits\n" + "\n".join(f"- {limit}" for limit in limits) + "\n"


def _speed_section(manifest: dict[str, Any]) -> str:
    window_seconds = manifest["input"]["clip_num_samples"] / manifest["input"]["sample_rate_hz"]
    lines = [
        f"| `{name}` | {1000 * seconds:.2g} ms | {float(f'{window_seconds / seconds:.2g}'):,.0f} |"
        for name, runtime in manifest.get("runtimes", {}).items()
        if (seconds := runtime.get("processor_seconds"))
    ]
    if not lines:
        return ""
    heading = [
        "## Speed",
        "Processor time to encode one window, when the file was written, and how many seconds of music that is per "
        "second; decoding is not included.",
        "",
        "| file | one window | times real time per core |",
        "|---|---|---|",
    ]
    return "\n".join([*heading, *lines]) + "\n"


def _golden_section(golden_embedding: np.ndarray) -> str:
    greatest = np.argsort(-golden_embedding[0], kind="stable")[:_NUM_GOLDEN_NUMBERS]
    lines = [
        "## Golden numbers",
        "`golden.npz` contains two clips and the embeddings that every runtime must compute from them. The largest "
        "values of the first embedding:",
        "",
        "| dimension | value |",
        "|---|---|",
        *(f"| {dimension} | {golden_embedding[0, dimension]:.6g} |" for dimension in greatest),
    ]
    return "\n".join(lines) + "\n"


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replaces the manifest and the model card of a model folder.

    Raises:
        UsageError: If the manifest does not contain what the card needs; then nothing is replaced.
    """
    require_parts(folder, manifest, PARTS_OF_CARDS)
    card = model_card(manifest, read_golden(folder)["embedding"])
    write_atomically(folder / MANIFEST_FILE, json.dumps(manifest, indent=2) + "\n")
    write_atomically(folder / CARD_FILE, card)


def record_score(folder: Path, corpus: str, score: dict[str, Any]) -> None:
    """Adds a model's score on a corpus to its manifest and card."""
    manifest = read_manifest(folder)
    manifest["scores"][corpus] = score
    write_manifest(folder, manifest)
