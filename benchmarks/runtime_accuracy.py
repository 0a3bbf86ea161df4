"""python -m benchmarks.runtime_accuracy: how much accuracy a model's files for other runtimes lose on music.

Prints one JSON object. For every file of the model folder it has the cosine similarity of its embeddings to the
encoder's, over all windows of a corpus, and the score of a linear probe on them. "int8 calibrated", which is not
exported, uses 8-bit integers whose ranges were measured on music of the train split.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.console import run_command, stdout
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.index import SPLITS
from clmr_tf.errors import UsageError
from clmr_tf.export.runtime_formats import FORMATS
from clmr_tf.export.runtime_process import load

CALIBRATED = "int8 calibrated"
NUM_CALIBRATION_WINDOWS = 128
BATCH_SIZE = 16
Embed = Callable[[np.ndarray], np.ndarray]


def measure(model: Path, corpus_name: str, corpora: Path) -> dict[str, Any]:
    """Returns the figures; the arguments are those of `clmr_tf.probe`."""
    from clmr_tf.data.labels import has_single_labels, require_labels
    from clmr_tf.data.resolution import resolve_corpus
    from clmr_tf.export.keras_model import read_encoder

    encoder = read_encoder(model)
    corpus = resolve_corpus(
        corpus_name,
        corpora=corpora,
        sample_rate_hz=encoder.sample_rate_hz,
        clip_num_samples=encoder.clip_num_samples,
        reader="prepared",
    )
    require_labels(corpus)
    audio = {split: list(_windows(corpus, split, encoder.clip_num_samples)) for split in SPLITS}
    single_label = has_single_labels(corpus)
    expected = _embeddings(lambda batch: encoder(batch, training=False).numpy(), audio)
    reference = _score(expected, audio, corpus, single_label)
    rows: dict[str, Any] = {"encoder": reference}
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: model / wanted.file for kind, wanted in FORMATS.items() if (model / wanted.file).is_file()}
        files[CALIBRATED] = Path(folder) / "calibrated.tflite"
        files[CALIBRATED].write_bytes(calibrated(encoder, audio["train"]))
        for kind, file in files.items():
            run = load(file)
            received = _embeddings(lambda batch, run=run: run(batch)["embedding"], audio)
            score = _score(received, audio, corpus, single_label)
            cosine = _cosines(np.concatenate(list(received.values())), np.concatenate(list(expected.values())))
            rows[kind] = {
                "cosine": dict(zip(("least", "5_percent", "median"), np.quantile(cosine, (0, 0.05, 0.5)), strict=True)),
                **score,
                "points_lost": {name: 100 * (reference[name] - score[name]) for name in score},
                "num_bytes": file.stat().st_size,
            }
    num_windows = {split: sum(map(len, items)) for split, items in audio.items()}
    return {"model": str(model), "corpus": corpus.manifest.name, "num_windows": num_windows, "rows": rows}


def calibrated(encoder: Any, recordings: Sequence[np.ndarray]) -> bytes:
    """Converts the encoder to 8-bit integers, calibrated on windows spread over `recordings`."""
    import tensorflow as tf

    from clmr_tf.export.converter import FoldedNetwork

    windows = np.concatenate(recordings)
    selected = windows[np.linspace(0, len(windows) - 1, NUM_CALIBRATION_WINDOWS).astype(int)]
    function = FoldedNetwork(encoder).function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ({"audio": window[np.newaxis]} for window in selected)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def _windows(corpus: Corpus, split: str, clip_num_samples: int) -> Iterator[np.ndarray]:
    """Yields the whole windows of every item, float32 [windows, clip_num_samples]."""
    for item in corpus.items_of(split):
        count = item.num_samples // clip_num_samples
        yield corpus.read_samples(item, 0, count * clip_num_samples).reshape(count, clip_num_samples)


def _embeddings(embed: Embed, audio: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    vectors = {}
    for split, items in audio.items():
        windows = np.concatenate(items)
        vectors[split] = np.concatenate(
            [embed(windows[row : row + BATCH_SIZE]) for row in range(0, len(windows), BATCH_SIZE)]
        )
    return vectors


def _score(
    vectors: dict[str, np.ndarray], audio: dict[str, list[np.ndarray]], corpus: Corpus, single_label: bool
) -> dict[str, float]:
    from clmr_tf.models.heads import probabilities
    from clmr_tf.probe.features import LabeledFeatures
    from clmr_tf.probe.heads import fit_logistic_head
    from clmr_tf.probe.scores import main_metric

    splits = []
    for split, clips in audio.items():
        clip_of_window = np.repeat(np.arange(len(clips)), [len(windows) for windows in clips])
        rows = corpus.rows_of(split)
        labels = corpus.multi_hot(rows)
        splits.append(LabeledFeatures(vectors[split], clip_of_window, labels, corpus.num_samples[rows]))
    train, valid, test = splits
    examples = train.vectors, train.row_labels, valid.vectors, valid.row_labels
    fit, _, _ = fit_logistic_head(*examples, single_label=single_label)
    window_scores = probabilities(fit.head.logits(test.vectors).astype(np.float64), single_label)
    return {
        "score": main_metric(test.labels, test.mean_by_clip(window_scores), single_label),
        "clip_score": main_metric(test.row_labels, window_scores, single_label),
    }


def _cosines(received: np.ndarray, expected: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(received, axis=1) * np.linalg.norm(expected, axis=1)
    return np.sum(received * expected, axis=1) / lengths


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime_accuracy", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model folder with files for other runtimes")
    parser.add_argument("--corpus", default="demo", help="corpus, as in clmr_tf.probe (default: demo)")
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), help="folder of prepared corpora")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if not any((options.model / wanted.file).is_file() for wanted in FORMATS.values()):
        raise UsageError(f"{options.model} has no file for another runtime; export it with --tflite fp32,fp16,int8.")
    stdout.out(json.dumps(measure(options.model, options.corpus, options.corpora), indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
