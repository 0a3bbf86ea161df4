"""The evaluation by a trained head: linear or MLP, on frozen features, as the published protocols train it."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

from clmr_tf.data.corpus import SPLITS, Corpus
from clmr_tf.data.labels import Examples, Split, choose_labels, has_single_labels, require_probeable, task_facts
from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import read_head, read_manifest
from clmr_tf.inference.encoder import Encoder, load_encoder
from clmr_tf.models.heads import Head
from clmr_tf.models.sample_cnn import build_encoder
from clmr_tf.probe.features import (
    EncoderFeatures,
    FeatureSource,
    MajorityFeatures,
    MelFeatures,
    Show,
    SplitReader,
    clip_scores,
    import_source,
)
from clmr_tf.probe.heads import Fit, fit_head, majority_head, search
from clmr_tf.probe.protocols import MLP_HIDDEN_UNITS, PROTOCOLS, HeadSettings, ProbeProtocol, grid_of_heads
from clmr_tf.probe.scores import NUM_RESAMPLINGS, PERCENTILES, evaluate_scores
from clmr_tf.probe.settings import HeadProbe, require_possible
from clmr_tf.quiet_start import start_xla_quietly
from clmr_tf.train.run_folder import versions

FORMAT_VERSION = 1


def probe_with_head(
    request: HeadProbe, show: Show = lambda what, done, of: None, keep: Callable[[Head], None] = lambda head: None
) -> dict[str, Any]:
    """Trains a head on the train split, stops it by the valid split, and scores the clips of valid and test.

    Args:
        request: What and how.
        show: For progress.
        keep: Gets the head.

    Returns:
        JSON data; docs/evaluation.md says what each entry is.

    Raises:
        UsageError: If the model or the corpus is none, lacks tags or a split, or the options do not go together.
        ClmrError: If a clip is shorter than a window, or the head diverges.
    """
    require_possible(request)
    # Before anything is prepared for a model that is none.
    manifest = read_manifest(request.model)
    encoder = load_encoder(request.model)
    prepared = resolve_corpus(
        request.corpus,
        corpora=request.corpora,
        sample_rate_hz=encoder.sample_rate_hz,
        clip_num_samples=encoder.clip_num_samples,
        reader=None,
    )
    labeled = prepared if request.task is None else prepared.for_task(request.task)
    require_probeable(labeled)
    single_label = has_single_labels(labeled)
    source = _source_of(request, encoder, manifest)
    protocol = _protocol_of(request, source)
    start_xla_quietly()

    reader = SplitReader(
        request.cache, source, prepared, labeled, protocol.drops_last_chunk, seed=request.seed, show=show
    )
    if request.head == "own":
        head, fit = _own_head(request, manifest, labeled), None
        protocol = dataclasses.replace(protocol, head=None)
        labels = _labels_of_own_head(manifest, labeled)
    else:
        train, labels = choose_labels(
            reader.read("train", protocol.train_windows),
            labeled.manifest.tag_names,
            song_share=request.labels,
            combination_share=request.labels_like_paper,
            seed=request.seed,
        )
        valid = reader.read("valid", protocol.train_windows)
        key = {
            "source": source.identity,
            "corpus": prepared.manifest.fingerprint,
            "train": _digest(labeled, train),
            "valid": _digest(labeled, valid),
            "seed": request.seed,
        }
        head, settings, fit = _fit(request, protocol, source, train, valid, single_label, key, show)
        protocol = dataclasses.replace(protocol, head=settings)

    keep(head)
    facts = prepared.manifest
    return {
        "format_version": FORMAT_VERSION,
        "preset": request.preset,
        **task_facts(labeled),
        "single_label": single_label,
        "corpus": {
            "name": facts.name,
            "fingerprint": facts.fingerprint,
            "tag_names": list(labeled.manifest.tag_names),
        },
        "features": source.describe(),
        "protocol": {
            **dataclasses.asdict(protocol),
            "interval": {"resampled": "songs", "num_resamplings": NUM_RESAMPLINGS, "percentiles": list(PERCENTILES)},
        },
        **({"head": "own", "objective": _objective_of(manifest)} if fit is None else {}),
        "labels": labels,
        "seed": request.seed,
        "fit": fit,
        "scores": {split: _scores_of(split, head, reader, protocol, single_label) for split in SPLITS[1:]},
        "versions": {**versions(), "scikit-learn": metadata.version("scikit-learn")},
    }


def main_score(result: dict[str, Any]) -> dict[str, Any]:
    """The one number of a result, of its test split: accuracy of single labels, else macro average precision."""
    test = result["scores"]["test"]
    name = "accuracy" if result["single_label"] else "macro average precision"
    return {"metric": name, **(test["accuracy"] if result["single_label"] else test["average_precision"]["over_tags"])}


def _own_head(request: HeadProbe, manifest: dict[str, Any], labeled: Corpus) -> Head:
    if "head" in manifest:
        raise UsageError(
            f"The head of {request.model} was trained on frozen embeddings and added, so the model has none "
            "of its own; its scores are in the model card, and --head linear trains another one."
        )
    head = read_head(request.model)
    if manifest["tag_names"] != list(labeled.manifest.tag_names):
        raise UsageError(
            f"The model in {request.model} was trained for other tags than those of {labeled.manifest.name}, such as "
            f"{manifest['tag_names'][0]!r}; give the corpus and the task that it was trained on."
        )
    return head


def _labels_of_own_head(manifest: dict[str, Any], labeled: Corpus) -> dict[str, Any]:
    """As `choose_labels` describes them."""
    run = manifest["training"].get("run")
    if run is not None:
        return run["labels"]["chosen"]
    # A converted checkpoint does not say; the released heads learnt from the whole train split.
    items = labeled.items_of("train")
    clips = Examples(np.zeros((len(items), 0), np.float32), np.arange(len(items)))
    train = Split(items, labeled.multi_hot(items), clips)
    return choose_labels(train, labeled.manifest.tag_names, song_share=1.0, combination_share=None, seed=0)[1]


def _objective_of(manifest: dict[str, Any]) -> str:
    return manifest["training"].get("config", {"objective": "converted"})["objective"]


def _scores_of(
    split: str, head: Head, reader: SplitReader, protocol: ProbeProtocol, single_label: bool
) -> dict[str, Any]:
    clips = reader.read(split, protocol.score_windows)
    scores = clip_scores(head, clips.examples, len(clips.items), protocol, single_label)
    songs, tag_names = [item.song_id for item in clips.items], reader.labeled.manifest.tag_names
    return {
        **evaluate_scores(clips.labels, scores, songs, tag_names, single_label=single_label),
        "num_windows": len(clips.examples.item),
        "num_clips_of_one_window": clips.num_rescued,
    }


def _source_of(request: HeadProbe, encoder: Encoder, manifest: dict[str, Any]) -> FeatureSource:
    shape = encoder.clip_num_samples, encoder.sample_rate_hz
    arguments = manifest["architecture"]["arguments"]
    if request.features == "mel":
        return MelFeatures(*shape)
    if request.features == "majority":
        return MajorityFeatures(*shape)
    if ":" in request.features:
        return import_source(request.features, *shape)
    if request.features == "untrained":
        untrained = Encoder(build_encoder(**arguments, seed=request.seed), *shape)
        return EncoderFeatures(untrained, "untrained", {"architecture": arguments, "seed": request.seed})
    facts = {"model": str(request.model), "architecture": arguments, "training_step": manifest["training"]["step"]}
    return EncoderFeatures(encoder, "model", facts)


def _protocol_of(request: HeadProbe, source: FeatureSource) -> ProbeProtocol:
    protocol = PROTOCOLS[request.preset]
    if request.labels_like_paper is not None:
        # What the original chose among.
        protocol = dataclasses.replace(protocol, train_windows="chunks")
    hidden_units = MLP_HIDDEN_UNITS if request.head == "mlp" else 0
    return dataclasses.replace(protocol, head=_standardised(protocol.head, source, hidden_units=hidden_units))


def _standardised(settings: HeadSettings, source: FeatureSource, **changes: Any) -> HeadSettings:
    standardise = settings.standardise or source.needs_standardising
    return dataclasses.replace(settings, standardise=standardise, **changes)


def _fit(
    request: HeadProbe,
    protocol: ProbeProtocol,
    source: FeatureSource,
    train: Split,
    valid: Split,
    single_label: bool,
    key: dict[str, Any],
    show: Show,
) -> tuple[Head, HeadSettings, dict[str, Any]]:
    """The head, the settings that it was trained with, and how that went."""
    if isinstance(source, MajorityFeatures):
        return majority_head(train.example_labels, single_label), protocol.head, {"num_steps": 0}
    fit = partial(
        fit_head,
        train.examples.vectors,
        train.example_labels,
        valid.examples.vectors,
        valid.example_labels,
        single_label=single_label,
        seed=request.seed,
    )
    if request.preset != "grid":
        return _facts_of(fit(protocol.head), protocol.head)
    # Where standardising is a must, both halves of the grid would be the same.
    heads = list(dict.fromkeys(_standardised(settings, source) for settings in grid_of_heads(single_label)))
    journal = request.cache / source.identity[:16] / f"grid-{_hash(key)[:16]}.jsonl"
    best, settings, runs = search(heads, fit, journal, key, on_run=partial(show, "Heads of the grid"))
    head, settings, facts = _facts_of(best, settings)
    return head, settings, {**facts, "num_runs": len(runs), "runs": runs}


def _facts_of(fit: Fit, settings: HeadSettings) -> tuple[Head, HeadSettings, dict[str, Any]]:
    facts = {"monitor": settings.monitor, "valid": fit.best_value, "best_step": fit.best_step}
    return fit.head, settings, {**facts, "num_steps": fit.num_steps}


def _digest(corpus: Corpus, split: Split) -> str:
    """What was learnt from: which clips, how often each, with which tags."""
    clips = [[split.items[row].id, list(split.items[row].tags)] for row in split.examples.item.tolist()]
    return _hash([list(corpus.manifest.tag_names), clips])


def _hash(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
