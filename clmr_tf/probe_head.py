"""The head of a probe, taken from beside its result, for the model that it was trained on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from clmr_tf.encoder import Encoder, weights_hash
from clmr_tf.errors import UsageError
from clmr_tf.files import UnreadableArraysError
from clmr_tf.head import Head, head_file_of
from clmr_tf.models.sample_cnn import EMBEDDING_DIM, SampleCNN

# Of a result, what tells a reader of the manifest how the head came about; some are not in every result.
_FACTS = ("preset", "task", "protocol", "labels", "seed", "fit")


@dataclasses.dataclass(frozen=True)
class ProbeHead:
    """A head that a probe has trained.

    Attributes:
        head: From embeddings to logits.
        tag_names: Of the logits.
        single_label: Whether exactly one tag holds (softmax, not sigmoids).
        facts: For the manifest: file of the result, corpus, how the head was trained, and its scores of the test split.
    """

    head: Head
    tag_names: list[str]
    single_label: bool
    facts: dict[str, Any]

    @property
    def manifest_entries(self) -> dict[str, Any]:
        """What the manifest of a model with this head says of it."""
        return {"tag_names": self.tag_names, "single_label": self.single_label, "head": self.facts}


def read_probe_head(result_file: Path, encoder: SampleCNN) -> ProbeHead:
    """The head that a probe has trained on the features of an encoder.

    Args:
        result_file: evaluation-....json of `python -m clmr_tf.probe`, with its .npz beside it.
        encoder: What the head is to be put on.

    Raises:
        UsageError: If it is no such result, of no head or of another encoder, or the head cannot be read.
    """
    advice = "give the evaluation-....json of `python -m clmr_tf.probe --preset released --model` this model"
    try:
        result = json.loads(result_file.read_text(encoding="utf-8"))
        kind, single_label = result["features"]["kind"], result["single_label"]
        corpus = {name: result["corpus"][name] for name in ("name", "fingerprint", "tag_names")}
        tag_names, hash_of_features = corpus.pop("tag_names"), result["features"].get("model_hash")
        facts = {"result": result_file.name, "corpus": corpus, "test": result["scores"]["test"]}
        facts |= {name: result[name] for name in _FACTS if name in result}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{result_file} is no result of a probe; {advice}.") from error
    if kind != "model" or hash_of_features != weights_hash(
        Encoder(encoder, encoder.clip_num_samples, encoder.sample_rate_hz)
    ):
        raise UsageError(f"The head of {result_file} was trained on features of {kind} with other weights; {advice}.")
    path = head_file_of(result_file)
    try:
        head = Head.load(path)
    except UnreadableArraysError as error:
        raise UsageError(f"The head {path} cannot be read ({error}); run the probe again.") from error
    if (head.num_features, head.num_outputs) != (EMBEDDING_DIM, len(tag_names)):
        raise UsageError(f"The head {path} is not the one of {result_file}; run the probe again.")
    return ProbeHead(head, tag_names, single_label, facts)
