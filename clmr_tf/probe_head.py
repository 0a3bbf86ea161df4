"""The head of a probe, taken from beside its result, for the model that it was trained on."""

import json
import zipfile
from pathlib import Path

from clmr_tf.encoder import Encoder
from clmr_tf.errors import UsageError
from clmr_tf.evaluation.heads import Head, head_file_of
from clmr_tf.evaluation.sources import weights_hash
from clmr_tf.models.sample_cnn import SampleCNN


def read_probe_head(result_file: Path, encoder: SampleCNN) -> tuple[Head, list[str], bool]:
    """The head that a probe has trained on the features of an encoder.

    Args:
        result_file: evaluation-....json of `python -m clmr_tf.probe`, with its .npz beside it.
        encoder: What the head is to be put on.

    Returns:
        The head, the names of its tags, and whether exactly one of them holds (softmax, not sigmoids).

    Raises:
        UsageError: If it is no such result, of no head or of another encoder, or the head cannot be read.
    """
    advice = "give the evaluation-....json of `python -m clmr_tf.probe --preset released --model` this model"
    try:
        result = json.loads(result_file.read_text(encoding="utf-8"))
        kind, tag_names, single_label = (
            result["features"]["kind"],
            result["corpus"]["tag_names"],
            result["single_label"],
        )
        hash_of_features = result["features"].get("model_hash")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{result_file} is no result of a probe; {advice}.") from error
    if kind != "model" or hash_of_features != weights_hash(
        Encoder(encoder, encoder.clip_num_samples, encoder.sample_rate_hz)
    ):
        raise UsageError(f"The head of {result_file} was trained on features of {kind} with other weights; {advice}.")
    path = head_file_of(result_file)
    try:
        head = Head.load(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"The head {path} cannot be read ({error}); run the probe again.") from error
    if len(head.weights[-1]) != len(tag_names):
        raise UsageError(f"The head {path} is not the one of {result_file}; run the probe again.")
    return head, tag_names, single_label
