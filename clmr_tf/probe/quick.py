"""The quick probe: logistic regression on windows, compared with untrained encoders."""

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from clmr_tf.data.corpus import Corpus
from clmr_tf.data.index import SPLITS
from clmr_tf.data.labels import has_single_labels, require_labels
from clmr_tf.inference.encoder import Encoder
from clmr_tf.models.clip_encoder import ClipEncoder
from clmr_tf.models.encoders import build_encoder
from clmr_tf.probe.features import EncoderFeatures, LabeledFeatures, OnProgress, read_features
from clmr_tf.probe.scores import Score, main_metric, main_score, resampling_weights

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

_LOG = logging.getLogger(__name__)
_NUM_UNTRAINED = 3
# If the number of windows times the number of fits is larger, the probe takes an hour or more.
_MANY_WINDOWS_FITTED = 2_000_000
# Two-sided, z = 1.96.
_WILSON_CONFIDENCE = 0.950004209703559


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A fitted logistic regression.

    Attributes:
        model: From scikit-learn, with the standardisation of the features.
        inverse_penalty: The value that was best on the validation split.
    """

    model: "Pipeline"
    inverse_penalty: float

    def window_scores(self, features: LabeledFeatures) -> np.ndarray:
        """Probabilities of the tags of each row, float64 [rows, tags]."""
        scores = np.zeros((len(features.vectors), features.labels.shape[1]))
        # Classes without training windows are unknown to the classifier; their score stays 0.
        scores[:, self.model[-1].classes_] = self.model.predict_proba(features.vectors)
        return scores


def fit_linear_probe(
    train: LabeledFeatures, valid: LabeledFeatures, single_label: bool, on_fit: Callable[[], None] = lambda: None
) -> LinearProbe:
    """Fits logistic regression on the windows of `train` and selects the L2 penalty that scores best on `valid`.

    Features are standardised with the statistics of `train`. The optimum is unique, so no seed is involved. A clip's
    score is the mean of the probabilities of its windows.

    Args:
        train: Features to fit.
        valid: Features to select the penalty with.
        single_label: Fit one multinomial classifier and select by accuracy; otherwise fit a binary classifier per tag
            and select by macro average precision.
        on_fit: Called after each penalty.
    """
    # scikit-learn takes most of a second to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    targets = train.row_labels.argmax(axis=1) if single_label else train.row_labels
    best, best_value = None, -np.inf
    for inverse_penalty in INVERSE_PENALTIES:
        classifier = LogisticRegression(C=inverse_penalty, max_iter=2000)
        model = make_pipeline(StandardScaler(), classifier if single_label else OneVsRestClassifier(classifier))
        probe = LinearProbe(model.fit(train.vectors, targets), inverse_penalty)
        value = main_metric(valid.labels, valid.mean_by_clip(probe.window_scores(valid)), single_label)
        # If scores are equal, the stronger penalty is kept.
        if value > best_value:
            best, best_value = probe, value
        on_fit()
    return best


def build_probe(model: ClipEncoder, corpus: Corpus) -> Callable[[Callable[[], None]], dict[str, float]]:
    """Makes a probe for use during training: fitted on the train split, selected and scored on the valid split.

    The test split is not used, so the score may be used to select checkpoints. It is slightly optimistic, since the
    penalty is selected on the valid split too.

    Args:
        model: The encoder in training.
        corpus: A corpus with tags, a train split and a valid split.

    Returns:
        A function that returns {"probe/score": accuracy with single labels, else macro average precision}. It calls
        its argument after each clip and each penalty.

    Raises:
        UsageError: If the corpus has no tags, or a split is missing.
    """
    require_labels(corpus, ("train", "valid"))
    single_label = has_single_labels(corpus)
    source = EncoderFeatures(Encoder(model, model.clip_num_samples, model.sample_rate_hz), "model", {})
    _warn_if_slow(corpus, model.clip_num_samples)

    def probe(on_progress: Callable[[], None] = lambda: None) -> dict[str, float]:
        train, valid = (
            read_features(source, corpus, split, on_clip=lambda done, total: on_progress())
            for split in ("train", "valid")
        )
        fitted = fit_linear_probe(train, valid, single_label, on_progress)
        scores = valid.mean_by_clip(fitted.window_scores(valid))
        return {"probe/score": main_metric(valid.labels, scores, single_label)}

    return probe


def compare_with_untrained(
    encoder: Encoder,
    architecture: dict[str, Any],
    corpus: Corpus,
    seed: int,
    on_progress: OnProgress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Probes an encoder, three untrained encoders of the same architecture, and the most frequent label.

    Scores of untrained encoders vary with their seed, so the row "untrained encoder" is the mean over three, which are
    listed as well.

    Intervals are over recordings, since windows of one recording are not independent: Wilson's for the accuracy of one
    encoder, else the 2.5 and 97.5 percentiles of 1,000 resamplings of the recordings. In each resampling all encoders
    are scored on the same recordings before the untrained ones are averaged. The intervals account for the choice of
    recordings, not of seeds.

    Args:
        encoder: The trained encoder.
        architecture: Arguments of `build_encoder` for the untrained ones.
        corpus: The corpus, with the labels of the task and three splits.
        seed: Seed of the first untrained encoder; the others use the next ones.
        on_progress: Called with what is being computed, the amount done and the total.

    Returns:
        The entries of the result that hold the protocol, the sizes of the splits and the scores, as JSON data.

    Raises:
        ClmrError: If no tag has both positives and negatives in the valid or the test split.
    """
    single_label = has_single_labels(corpus)
    shape = encoder.clip_num_samples, encoder.sample_rate_hz
    _warn_if_slow(corpus, encoder.clip_num_samples)
    seeds = range(seed, seed + _NUM_UNTRAINED)
    encoders = [encoder, *(Encoder(build_encoder(**architecture, seed=number), *shape) for number in seeds)]

    scored, penalties = [], []
    for number, one in enumerate(encoders, 1):
        name = f"encoder {number} of {len(encoders)}"
        train, valid, test = (
            read_features(
                EncoderFeatures(one, "model", {}),
                corpus,
                split,
                on_clip=partial(on_progress, f"Features of {split}, {name}"),
            )
            for split in SPLITS
        )
        probe = fit_linear_probe(train, valid, single_label)
        scored.append(_score(test, probe.window_scores(test), single_label))
        penalties.append(probe.inverse_penalty)
    trained, *untrained = scored
    # All encoders use the same windows.
    majority = _score(test, np.tile(train.row_labels.mean(axis=0), (len(test.vectors), 1)), single_label)
    num_recordings = len(test.labels)

    def row(*scored: tuple[Score, float]) -> dict[str, Any]:
        scores, window_scores = zip(*scored, strict=True)
        mean = Score.mean(scores)
        interval = mean.interval
        if single_label and len(scored) == 1:
            interval = wilson_interval(round(mean.value * num_recordings), num_recordings)
        return {"score": mean.value, "interval": interval, "clip_score": float(np.mean(window_scores))}

    by_seed = [
        {"seed": number, **row(one), "inverse_penalty": penalty}
        for number, one, penalty in zip(seeds, untrained, penalties[1:], strict=True)
    ]
    difference = trained[0] - Score.mean([score for score, _ in untrained])
    return {
        "metric": "accuracy" if single_label else "macro average precision",
        "protocol": "logistic regression on clips, penalty chosen on valid, probabilities averaged by recording",
        "splits": {
            split: {"num_recordings": len(features.labels), "num_clips": len(features.vectors)}
            for split, features in zip(SPLITS, (train, valid, test), strict=True)
        },
        "rows": [
            {"features": "trained encoder", **row(trained), "inverse_penalty": penalties[0]},
            {"features": "untrained encoder", **row(*untrained), "by_seed": by_seed},
            {"features": "majority guess", **row(majority)},
        ],
        "trained_minus_untrained": {"score": difference.value, "interval": difference.interval},
    }


def wilson_interval(num_correct: int, num_examples: int) -> list[float]:
    """The 95 % interval of a proportion of independent examples (Wilson 1927)."""
    # Imported late, like scikit-learn, which needs scipy.
    from scipy import stats

    interval = stats.binomtest(num_correct, num_examples).proportion_ci(_WILSON_CONFIDENCE, method="wilson")
    return [float(interval.low), float(interval.high)]


def _score(test: LabeledFeatures, window_scores: np.ndarray, single_label: bool) -> tuple[Score, float]:
    """The score by recording, and the value of the metric by window."""
    weights = resampling_weights(range(len(test.labels)))
    by_recording = main_score(test.labels, test.mean_by_clip(window_scores), weights, single_label)
    return by_recording, main_metric(test.row_labels, window_scores, single_label)


def _warn_if_slow(corpus: Corpus, clip_num_samples: int) -> None:
    num_windows = (corpus.num_samples[corpus.rows_of("train")] // clip_num_samples).sum()
    num_fits = len(INVERSE_PENALTIES) * (1 if has_single_labels(corpus) else len(corpus.manifest.tag_names))
    if num_windows * num_fits > _MANY_WINDOWS_FITTED:
        _LOG.warning(
            "This probe fits %d logistic regressions on %s windows, which takes an hour or more; "
            "`python -m clmr_tf.probe --preset released` scores a finished model faster, and --validate-every a run.",
            num_fits,
            f"{num_windows:,}",
        )
