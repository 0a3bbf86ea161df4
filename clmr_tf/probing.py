"""The quick evaluation: trained encoder, untrained encoder and majority guess, side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf import metrics
from clmr_tf.audio_files import load_audio
from clmr_tf.clips import window_starts
from clmr_tf.corpus import SPLITS, Corpus
from clmr_tf.corpus_resolution import resolve_corpus
from clmr_tf.encoder import Encoder
from clmr_tf.errors import UsageError
from clmr_tf.linear_probe import ProbeResult, Windows, fit_linear_probe
from clmr_tf.model_folder import read_manifest
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.pretrained import load_encoder

_BOOTSTRAP_SAMPLES = 1000


def probe(model: Path, corpus: str, corpora: Path, seed: int) -> dict[str, Any]:
    """Probes an exported encoder, an untrained one of the same shape, and the most frequent label.

    Windows are whole clips one after the other; a recording's score is the average over its windows. Intervals
    are over recordings, since clips of one are no independent examples: Wilson's for accuracy, the 2.5 and
    97.5 percentiles of 1,000 resamplings for average precision and for the difference to the untrained encoder.

    Args:
        model: Model folder.
        corpus: What `resolve_corpus` takes; needs tags and all three splits.
        corpora: Folder of prepared corpora.
        seed: Of the untrained weights.

    Returns:
        What was measured and with what, as JSON data.

    Raises:
        UsageError: If the corpus has no tags or lacks a split.
    """
    encoder = load_encoder(model)
    prepared = resolve_corpus(
        corpus,
        corpora=corpora,
        sample_rate_hz=encoder.sample_rate_hz,
        clip_num_samples=encoder.clip_num_samples,
        reader=None,
    )
    lacking = [split for split in SPLITS if not prepared.items_of(split)]
    if lacking or not prepared.manifest.tag_names:
        lack = f"no {' and no '.join(lacking)} split" if lacking else "no tags"
        raise UsageError(
            f"The corpus {prepared.manifest.name} has {lack}; prepare one that has, with "
            "`python -m pipelines.folder MUSIC --out FOLDER --tags folder --test-share 0.2`, and give --corpus FOLDER."
        )

    untrained_model = SampleCNN(**read_manifest(model)["architecture"]["arguments"], seed=seed)
    untrained_model.build()
    untrained = Encoder(untrained_model, encoder.clip_num_samples, encoder.sample_rate_hz)
    # Where every recording has exactly one tag, the task is to choose a class.
    single_label = all(len(item.tags) == 1 for item in prepared.items)
    rows, item_scores = [], {}
    for name, features in (("trained encoder", encoder), ("untrained encoder", untrained)):
        train, valid, test = (_embed(features, prepared, split) for split in SPLITS)
        result = fit_linear_probe(train, valid, test, single_label)
        item_scores[name] = result.item_scores
        rows.append({"features": name, **_score(test, result, single_label), "inverse_penalty": result.inverse_penalty})
    # The share of each label among the training windows, whatever the window.
    majority = np.tile(train.labels[train.item].mean(axis=0), (len(test.item), 1))
    rows.append({"features": "majority guess", **_score(test, ProbeResult.from_windows(majority, test), single_label)})
    manifest = prepared.manifest
    windows_of = dict(zip(SPLITS, (train, valid, test), strict=True))
    return {
        "metric": "accuracy" if single_label else "macro average precision",
        "protocol": "logistic regression on clips, penalty chosen on valid, probabilities averaged by recording",
        "corpus": {"name": manifest.name, "fingerprint": manifest.fingerprint, "tag_names": list(manifest.tag_names)},
        "splits": {
            split: {"num_recordings": len(windows.labels), "num_clips": len(windows.item)}
            for split, windows in windows_of.items()
        },
        "model": str(model),
        "training_step": read_manifest(model)["training"]["step"],
        "seed": seed,
        "rows": rows,
        "trained_minus_untrained": difference_of(test.labels, *item_scores.values(), single_label),
    }


def _embed(encoder: Encoder, corpus: Corpus, split: str) -> Windows:
    items = corpus.items_of(split)
    is_direct = corpus.manifest.storage == "direct"
    vectors, item_rows = [], []
    for row, item in enumerate(items):
        samples = load_audio(Path(item.file), encoder.sample_rate_hz) if is_direct else corpus.read_samples(item)
        starts = window_starts(len(samples), encoder.clip_num_samples)
        vectors.append(encoder.encode_windows(samples, starts))
        item_rows.append(np.full(len(starts), row))
    return Windows(np.concatenate(vectors), np.concatenate(item_rows), corpus.multi_hot(items))


def _score(test: Windows, result: ProbeResult, single_label: bool) -> dict[str, Any]:
    clip_labels = test.labels[test.item]
    return {
        "score": measure(test.labels, result.item_scores, single_label),
        "interval": interval_of(test.labels, result.item_scores, single_label),
        "clip_score": measure(clip_labels, result.window_scores, single_label),
    }


def measure(labels: np.ndarray, scores: np.ndarray, single_label: bool) -> float:
    """Accuracy where every example has one label, macro average precision elsewhere; both [examples, tags]."""
    if single_label:
        return metrics.accuracy(labels.argmax(axis=1), scores)
    return metrics.average_precision(labels, scores)[0]


def interval_of(labels: np.ndarray, scores: np.ndarray, single_label: bool) -> tuple[float, float]:
    """The 95 % interval of `measure` over independent recordings: Wilson's, or by resampling them."""
    if single_label:
        num_right = round(measure(labels, scores, True) * len(labels))
        return metrics.wilson_interval(num_right, len(labels))
    return _percentiles([measure(labels[rows], scores[rows], False) for rows in _resamplings(labels, False)])


def difference_of(labels: np.ndarray, scores: np.ndarray, baseline: np.ndarray, single_label: bool) -> dict[str, Any]:
    """How much better `scores` are than `baseline` on the same recordings, and its interval by resampling them."""

    def difference(rows: np.ndarray) -> float:
        better, worse = (measure(labels[rows], values[rows], single_label) for values in (scores, baseline))
        return better - worse

    resampled = [difference(rows) for rows in _resamplings(labels, single_label)]
    return {"score": difference(np.arange(len(labels))), "interval": _percentiles(resampled)}


def _resamplings(labels: np.ndarray, single_label: bool) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    for _ in range(_BOOTSTRAP_SAMPLES):
        rows = generator.integers(len(labels), size=len(labels))
        # Average precision needs a tag with and without.
        if single_label or (labels[rows].min(axis=0) != labels[rows].max(axis=0)).any():
            yield rows


def _percentiles(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
