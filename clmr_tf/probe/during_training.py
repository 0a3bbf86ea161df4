"""The probe of an encoder in training."""

from collections.abc import Callable

from clmr_tf.data.corpus import Corpus
from clmr_tf.data.labels import has_single_labels, require_labels
from clmr_tf.inference.tensorflow_encoder import tensorflow_encoder
from clmr_tf.models.clip_encoder import ClipEncoder
from clmr_tf.probe.evaluation import clip_scores
from clmr_tf.probe.features import EncoderFeatures, read_features
from clmr_tf.probe.heads import fit_logistic_head
from clmr_tf.probe.scores import main_metric


def build_probe(model: ClipEncoder, corpus: Corpus) -> Callable[[Callable[[], None]], dict[str, float]]:
    """Makes a probe for use during training: fitted on the train split, selected and scored on the valid split.

    It has the head of the preset "standard". The test split is not used, so the score may be used to select
    checkpoints. It is slightly optimistic, since the penalty is selected on the valid split too.

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
    source = EncoderFeatures(tensorflow_encoder(model), "model", {})

    def probe(on_progress: Callable[[], None] = lambda: None) -> dict[str, float]:
        train, valid = (
            read_features(source, corpus, split, on_clip=lambda done, total: on_progress())
            for split in ("train", "valid")
        )
        fit, _, _ = fit_logistic_head(
            train.vectors,
            train.row_labels,
            valid.vectors,
            valid.row_labels,
            single_label=single_label,
            on_fit=lambda done, total: on_progress(),
        )
        scores = clip_scores(fit.head, valid, "probabilities", single_label)
        return {"probe/score": main_metric(valid.labels, scores, single_label)}

    return probe
