"""The quick probe: a logistic regression on windows, beside untrained encoders."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clmr_tf import metrics
from clmr_tf.audio.decoding import load_audio
from clmr_tf.data.corpus import SPLITS, Corpus
from clmr_tf.data.crops import window_starts
from clmr_tf.data.labels import has_single_labels, require_probeable, task_facts
from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.inference.encoder import Encoder, load_encoder
from clmr_tf.metrics import accuracy, average_precision
from clmr_tf.models.sample_cnn import SampleCNN, build_encoder

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Embeddings of the windows of one split.

    Attributes:
        vectors: float32 [windows, dimensions].
        item: Row of the item that a window belongs to, int [windows].
        labels: Multi-hot tags of the items, [items, tags].
    """

    vectors: np.ndarray
    item: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe says of a split.

    Attributes:
        window_scores: Probabilities, [windows, tags].
        item_scores: Averages over the windows of each item, [items, tags].
        inverse_penalty: The one chosen on the validation split; None where nothing was fitted.
    """

    window_scores: np.ndarray
    item_scores: np.ndarray
    inverse_penalty: float | None = None

    @classmethod
    def from_windows(
        cls, window_scores: np.ndarray, windows: Windows, inverse_penalty: float | None = None
    ) -> "ProbeResult":
        """Averages the scores of windows by item."""
        sums = np.zeros((len(windows.labels), window_scores.shape[1]))
        np.add.at(sums, windows.item, window_scores)
        counts = np.bincount(windows.item, minlength=len(windows.labels))
        return cls(window_scores, sums / counts[:, None], inverse_penalty)


def fit_linear_probe(
    train: Windows,
    valid: Windows,
    test: Windows,
    single_label: bool,
    progressed: Callable[[], None] = lambda: None,
) -> ProbeResult:
    """Fits logistic regression on the windows of `train`, with the L2 penalty that is best on `valid`.

    Features are standardised with the statistics of `train`. The optimum is unique, so the result depends on no
    seed.

    Args:
        train: What the classifier learns from.
        valid: What chooses its penalty.
        test: What is scored.
        single_label: One multinomial classifier, judged on `valid` by accuracy; otherwise a binary classifier per
            tag, judged by average precision.
        progressed: Called after each of the penalties.

    Returns:
        The result on `test`.
    """
    # As in clmr_tf.metrics.
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    best: tuple[float, float, Pipeline] | None = None
    for inverse_penalty in INVERSE_PENALTIES:
        classifier = LogisticRegression(C=inverse_penalty, max_iter=2000)
        model = make_pipeline(StandardScaler(), classifier if single_label else OneVsRestClassifier(classifier))
        window_labels = train.labels[train.item]
        model.fit(train.vectors, window_labels.argmax(axis=1) if single_label else window_labels)
        item_scores = ProbeResult.from_windows(_window_scores(model, valid), valid).item_scores
        if single_label:
            score = accuracy(valid.labels.argmax(axis=1), item_scores)
        else:
            score, _ = average_precision(valid.labels, item_scores)
        # On a tie the stronger penalty stays.
        if best is None or score > best[0]:
            best = score, inverse_penalty, model
        progressed()
    _, inverse_penalty, model = best
    return ProbeResult.from_windows(_window_scores(model, test), test, inverse_penalty)


def _window_scores(model: "Pipeline", windows: Windows) -> np.ndarray:
    scores = np.zeros((len(windows.vectors), windows.labels.shape[1]))
    # A class without training windows is unknown to the classifier and keeps the score 0.
    scores[:, model[-1].classes_] = model.predict_proba(windows.vectors)
    return scores


logger = logging.getLogger(__name__)

_NUM_UNTRAINED = 3
# Some minutes of one core.
_MANY_WINDOWS_FITTED = 2_000_000
_BOOTSTRAP_SAMPLES = 1000


def probe(model: Path, corpus: str, corpora: Path, seed: int, task: str | None = None) -> dict[str, Any]:
    """Probes an exported encoder, untrained ones of the same shape, and the most frequent label.

    Windows are whole clips one after the other; a recording's score is the average over its windows. What an
    untrained encoder scores is a matter of luck, so there are three; "untrained encoder" is the mean of their
    scores, and each is listed beside it.

    Intervals are over recordings, since clips of one are no independent examples: Wilson's for the accuracy of
    one encoder; else the 2.5 and 97.5 percentiles of 1,000 resamplings of the recordings, in each of which all
    encoders are scored on the same recordings before the untrained ones are averaged. They say what other
    recordings would have given, not what other seeds would have: that shows in the scores of the three.

    Args:
        model: Model folder.
        corpus: What `resolve_corpus` takes; needs tags that tell recordings apart, and all three splits.
        corpora: Folder of prepared corpora.
        seed: Of the first untrained encoder's weights; the others have the next ones.
        task: Name of a labeling of the corpus; None for its own.

    Returns:
        What was measured and with what, as JSON data.

    Raises:
        UsageError: If `model` is no model folder, or the corpus has no tags, one class alone, or lacks a split.
    """
    # Before anything is prepared for a model that is none.
    manifest = read_manifest(model)
    encoder = load_encoder(model)
    prepared = resolve_corpus(
        corpus,
        corpora=corpora,
        sample_rate_hz=encoder.sample_rate_hz,
        clip_num_samples=encoder.clip_num_samples,
        reader=None,
    )
    fingerprint = prepared.manifest.fingerprint
    prepared = prepared if task is None else prepared.for_task(task)
    require_probeable(prepared)
    single_label = has_single_labels(prepared)
    _warn_of_long_fits(prepared, encoder.clip_num_samples)

    def fit(features: Encoder) -> tuple[ProbeResult, list[Windows]]:
        windows = [_embed(features, prepared, split) for split in SPLITS]
        return fit_linear_probe(*windows, single_label), windows

    trained, (train, valid, test) = fit(encoder)
    seeds = range(seed, seed + _NUM_UNTRAINED)
    arguments = manifest["architecture"]["arguments"]
    shape = encoder.clip_num_samples, encoder.sample_rate_hz
    untrained = [fit(Encoder(build_encoder(**arguments, seed=number), *shape))[0] for number in seeds]
    # The share of each label among the training windows, whatever the window.
    share = np.tile(train.labels[train.item].mean(axis=0), (len(test.item), 1))
    majority = ProbeResult.from_windows(share, test)

    def row(features: str, *results: ProbeResult) -> dict[str, Any]:
        return {"features": features, **_score(test, results, single_label)}

    by_seed = [
        {"seed": number, **_score(test, [result], single_label), "inverse_penalty": result.inverse_penalty}
        for number, result in zip(seeds, untrained, strict=True)
    ]
    untrained_scores = [result.item_scores for result in untrained]
    windows_of = dict(zip(SPLITS, (train, valid, test), strict=True))
    facts = prepared.manifest
    return {
        "metric": "accuracy" if single_label else "macro average precision",
        "protocol": "logistic regression on clips, penalty chosen on valid, probabilities averaged by recording",
        "corpus": {"name": facts.name, "fingerprint": fingerprint, "tag_names": list(facts.tag_names)},
        **task_facts(prepared),
        "splits": {
            split: {"num_recordings": len(windows.labels), "num_clips": len(windows.item)}
            for split, windows in windows_of.items()
        },
        "model": str(model),
        "training_step": manifest["training"]["step"],
        "seed": seed,
        "rows": [
            {**row("trained encoder", trained), "inverse_penalty": trained.inverse_penalty},
            {**row("untrained encoder", *untrained), "by_seed": by_seed},
            row("majority guess", majority),
        ],
        "trained_minus_untrained": difference_of(test.labels, trained.item_scores, untrained_scores, single_label),
    }


def _warn_of_long_fits(corpus: Corpus, clip_num_samples: int) -> None:
    num_windows = sum(item.num_samples // clip_num_samples for item in corpus.items_of("train"))
    num_fits = len(INVERSE_PENALTIES) * (1 if has_single_labels(corpus) else len(corpus.manifest.tag_names))
    if num_windows * num_fits > _MANY_WINDOWS_FITTED:
        logger.warning(
            "This probe fits %d logistic regressions on %s windows, which takes an hour or more; "
            "`python -m clmr_tf.probe --preset released` scores a finished model faster, and --validate-every a run.",
            num_fits,
            f"{num_windows:,}",
        )


def build_probe(model: SampleCNN, corpus: Corpus) -> Callable[[Callable[[], None]], dict[str, float]]:
    """Makes a probe for use during a training: fitted on the train split, chosen and scored on the valid split.

    The test split is not looked at, so the score may choose between checkpoints. It is accuracy where every
    recording has one tag, macro average precision elsewhere, and a little too good, since it also chose the penalty.

    Args:
        model: The encoder in training.
        corpus: Needs tags that tell recordings apart, in a train and a valid split.

    Returns:
        A function that gives "probe/score"; it calls its argument after each recording and each penalty of the probe.

    Raises:
        UsageError: If the corpus has none.
    """
    require_probeable(corpus, ("train", "valid"))
    single_label = has_single_labels(corpus)
    encoder = Encoder(model, model.clip_num_samples, model.sample_rate_hz)
    _warn_of_long_fits(corpus, model.clip_num_samples)

    def probe(progressed: Callable[[], None] = lambda: None) -> dict[str, float]:
        train, valid = (_embed(encoder, corpus, split, progressed) for split in ("train", "valid"))
        result = fit_linear_probe(train, valid, valid, single_label, progressed)
        return {"probe/score": measure(valid.labels, result.item_scores, single_label)}

    return probe


def _embed(encoder: Encoder, corpus: Corpus, split: str, progressed: Callable[[], None] = lambda: None) -> Windows:
    items = corpus.items_of(split)
    is_direct = corpus.manifest.storage == "direct"
    vectors, item_rows = [], []
    for row, item in enumerate(items):
        samples = load_audio(Path(item.file), encoder.sample_rate_hz) if is_direct else corpus.read_samples(item)
        starts = window_starts(len(samples), encoder.clip_num_samples)
        vectors.append(encoder.encode_windows(samples, starts))
        item_rows.append(np.full(len(starts), row))
        progressed()
    return Windows(np.concatenate(vectors), np.concatenate(item_rows), corpus.multi_hot(items))


def _score(test: Windows, results: Sequence[ProbeResult], single_label: bool) -> dict[str, Any]:
    item_scores = [result.item_scores for result in results]
    window_scores = [result.window_scores for result in results]
    return {
        "score": _mean_measure(test.labels, item_scores, single_label),
        "interval": interval_of(test.labels, item_scores, single_label),
        "clip_score": _mean_measure(test.labels[test.item], window_scores, single_label),
    }


def measure(labels: np.ndarray, scores: np.ndarray, single_label: bool) -> float:
    """Accuracy where every example has one label, macro average precision elsewhere; both [examples, tags]."""
    if single_label:
        return metrics.accuracy(labels.argmax(axis=1), scores)
    return metrics.average_precision(labels, scores)[0]


def interval_of(labels: np.ndarray, scores: Sequence[np.ndarray], single_label: bool) -> tuple[float, float]:
    """The 95 % interval, over independent recordings, of the mean of `measure` over one or several encoders.

    Args:
        labels: [recordings, tags].
        scores: Of each encoder, [recordings, tags].
        single_label: As in `measure`; with it, the interval of one encoder is Wilson's.
    """
    if single_label and len(scores) == 1:
        num_right = round(measure(labels, scores[0], True) * len(labels))
        return metrics.wilson_interval(num_right, len(labels))
    resamplings = _resamplings(labels, single_label)
    return _percentiles(
        [_mean_measure(labels[rows], [one[rows] for one in scores], single_label) for rows in resamplings]
    )


def difference_of(
    labels: np.ndarray, scores: np.ndarray, baselines: Sequence[np.ndarray], single_label: bool
) -> dict[str, Any]:
    """How much better `scores` are than the mean of `baselines`, and its interval by resampling the recordings."""

    def difference(rows: np.ndarray) -> float:
        mean = _mean_measure(labels[rows], [one[rows] for one in baselines], single_label)
        return measure(labels[rows], scores[rows], single_label) - mean

    resampled = [difference(rows) for rows in _resamplings(labels, single_label)]
    return {"score": difference(np.arange(len(labels))), "interval": _percentiles(resampled)}


def _mean_measure(labels: np.ndarray, scores: Sequence[np.ndarray], single_label: bool) -> float:
    return float(np.mean([measure(labels, one, single_label) for one in scores]))


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
