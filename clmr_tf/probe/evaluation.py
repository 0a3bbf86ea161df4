"""Probes an exported model: turns settings into a result."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from clmr_tf.data.corpus import Corpus
from clmr_tf.data.index import SPLITS
from clmr_tf.data.labels import choose_labels, has_single_labels, require_labels, task_metadata
from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import read_head, read_manifest
from clmr_tf.inference.encoder import Encoder, load_encoder
from clmr_tf.inference.tensorflow_encoder import tensorflow_encoder
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.heads import Head, probabilities
from clmr_tf.probe.comparison import PAIRED, difference, paired_scores, read_compared, require_same_examples
from clmr_tf.probe.features import (
    EncoderFeatures,
    FeatureSource,
    LabeledFeatures,
    MajorityFeatures,
    MelFeatures,
    OnProgress,
    chunks_of,
    import_source,
    read_features,
)
from clmr_tf.probe.heads import fit_head, fit_logistic_head, majority_head, search
from clmr_tf.probe.protocols import (
    MLP_HIDDEN_UNITS,
    PROTOCOLS,
    HeadSettings,
    LogisticSettings,
    ProbeProtocol,
    grid_of_heads,
)
from clmr_tf.probe.retrieval import draw_views, score_retrieval
from clmr_tf.probe.scores import (
    NUM_RESAMPLINGS,
    PERCENTILES,
    Score,
    evaluate_scores,
    neighbour_precision,
    resampling_weights,
)
from clmr_tf.probe.settings import ProbeConfig
from clmr_tf.quiet_start import start_xla_quietly
from clmr_tf.train.run_folder import versions

FORMAT_VERSION = 1
_INTERVAL = {"resampled": "songs", "num_resamplings": NUM_RESAMPLINGS, "percentiles": list(PERCENTILES)}


def probe_model(
    config: ProbeConfig, on_progress: OnProgress = lambda what, done, total: None
) -> tuple[dict[str, Any], Head | None]:
    """Trains a classifier on the features of the train split and scores the test split with it.

    Args:
        config: What to probe, and how.
        on_progress: Called with what is being computed, the amount done and the total.

    Returns:
        The result as JSON data, which docs/evaluation.md describes, and the trained head; None with the preset
        retrieval.

    Raises:
        UsageError: If the model or the corpus cannot be read, if tags, a split or recordings are missing, if they do
            not match the settings, or if a result to compare with is for another preset or other examples.
        ClmrError: If a clip is shorter than a window, or the head diverges.
    """
    # Checked before a corpus is prepared.
    manifest = read_manifest(config.model)
    compared = {str(path): read_compared(path.expanduser(), config.preset) for path in config.compare}
    encoder = load_encoder(config.model, "tensorflow")
    prepared = resolve_corpus(
        config.corpus,
        corpora=config.corpora.expanduser(),
        sample_rate_hz=encoder.sample_rate_hz,
        clip_num_samples=encoder.clip_num_samples,
        reader=None,
    )
    labeled = prepared if config.task is None else prepared.for_task(config.task)
    if config.preset != "retrieval":
        require_labels(labeled)
    corpus_metadata = {
        "name": prepared.manifest.name,
        "fingerprint": prepared.manifest.fingerprint,
        "tag_names": list(labeled.manifest.tag_names),
    }
    if config.preset == "retrieval":
        return _retrieve(config, manifest, encoder, labeled, corpus_metadata, compared, on_progress), None
    if config.preset == "standard":
        return _probe_and_compare(config, manifest, encoder, labeled, corpus_metadata, compared, on_progress)
    result, head, _ = _probe_with_head(config, manifest, encoder, labeled, corpus_metadata, on_progress)
    return result, head


def main_scores(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of a result that the model card shows, by a suffix for the name of the result.

    With single labels, the test accuracy and, under "-similar", the precision of the ten most similar recordings;
    otherwise macro average precision. Under "-retrieval", recall at 1 of views. Each also has its differences from
    other features, as "differences": {name: {"mean", "interval"}}, if the result has some.
    """
    # Retrieval has the validation split if there is no test split.
    split = "test" if "test" in result["scores"] else "valid"
    scores = result["scores"][split]
    if result["preset"] == "retrieval":
        among = f"among {result['protocol']['num_candidates']} recordings"
        shown = {"-retrieval": ("chain/recall_at_1", f"recall at 1 of augmented views {among}")}
    elif result["single_label"]:
        shown = {"": ("accuracy", "accuracy"), "-similar": ("neighbour_precision", "precision at 10 of similar songs")}
    else:
        shown = {"": ("average_precision", "macro average precision")}
    recorded = {}
    for suffix, (key, metric) in shown.items():
        if key not in scores:
            continue
        differences = {
            _name_of_other(entry["minus"]): {name: entry["scores"][key][name] for name in ("mean", "interval")}
            for entry in result.get("differences", ())
            if key in entry["scores"]
        }
        score = scores[key].get("over_tags", scores[key])
        recorded[suffix] = {
            "split": split,
            "metric": metric,
            **score,
            **({"differences": differences} if differences else {}),
        }
    return recorded


def _name_of_other(minus: dict[str, Any]) -> str:
    """What was subtracted: the kind of features, or the file of another model's result."""
    kind: str = minus["features"]["kind"]
    return Path(minus["file"]).stem if kind == "model" and "file" in minus else kind


def _retrieve(
    config: ProbeConfig,
    manifest: dict[str, Any],
    encoder: Encoder,
    corpus: Corpus,
    corpus_metadata: dict[str, Any],
    compared: dict[str, dict[str, Any]],
    on_progress: OnProgress,
) -> dict[str, Any]:
    views = draw_views(corpus, encoder.clip_num_samples, config.seed)
    examples = _hash([corpus_metadata["fingerprint"], *views.identity])
    for file, other in compared.items():
        require_same_examples(file, other, examples, corpus_metadata["name"], config.task)
    start_xla_quietly()
    has_baselines = config.baselines and config.features == "model"
    kinds = (config.features, *(("untrained", "mel") if has_baselines else ()))
    sources = [_source(kind, config, encoder, manifest) for kind in kinds]
    every = score_retrieval(views, corpus, sources, on_progress)
    entries = [
        {
            "features": source.describe(),
            "scores": {name: score.to_json() for name, score in scores.items()},
            PAIRED: paired_scores(examples, scores),
        }
        for source, scores in zip(sources, every, strict=True)
    ]
    model, *baselines = entries
    return {
        "format_version": FORMAT_VERSION,
        "preset": config.preset,
        **task_metadata(corpus),
        "corpus": {name: corpus_metadata[name] for name in ("name", "fingerprint")},
        "features": model["features"],
        "protocol": {**views.describe(), "interval": {**_INTERVAL, "resampled": "recordings"}},
        "seed": config.seed,
        "scores": {views.split: model["scores"]},
        "differences": [difference(model, one) for one in baselines]
        + [difference(model, other, file) for file, other in compared.items()],
        "versions": versions(),
        PAIRED: model[PAIRED],
    }


def _probe_and_compare(
    config: ProbeConfig,
    manifest: dict[str, Any],
    encoder: Encoder,
    labeled: Corpus,
    corpus_metadata: dict[str, Any],
    compared: dict[str, dict[str, Any]],
    on_progress: OnProgress,
) -> tuple[dict[str, Any], Head]:
    """The preset standard: the result and the head, with differences from untrained weights and from other results."""
    items, tag_names = tuple(labeled.items_of("test")), corpus_metadata["tag_names"]
    clips = [[item.id, item.song_id, list(item.tags)] for item in items]
    draws = hashlib.sha256(resampling_weights([item.song_id for item in items]).tobytes()).hexdigest()
    examples = _hash([tag_names, has_single_labels(labeled), clips, draws])
    for file, other in compared.items():
        require_same_examples(file, other, examples, corpus_metadata["name"], config.task)

    def probe(config: ProbeConfig) -> tuple[dict[str, Any], Head]:
        result, head, scores = _probe_with_head(config, manifest, encoder, labeled, corpus_metadata, on_progress)
        return {**result, PAIRED: paired_scores(examples, scores)}, head

    result, head = probe(config)
    differences = []
    if config.baselines and config.features == "model" and config.head != "own":
        untrained, _ = probe(dataclasses.replace(config, features="untrained"))
        differences.append(difference(result, untrained))
    differences += [difference(result, other, file) for file, other in compared.items()]
    # The numbers of each resampling come last, where they do not hide the rest from a reader.
    paired = result.pop(PAIRED)
    return {**result, "differences": differences, PAIRED: paired}, head


def _probe_with_head(
    config: ProbeConfig,
    manifest: dict[str, Any],
    encoder: Encoder,
    labeled: Corpus,
    corpus_metadata: dict[str, Any],
    on_progress: OnProgress,
) -> tuple[dict[str, Any], Head, dict[str, Score]]:
    """The result, the head, and the main scores of the test split with their bootstrap distributions."""
    source = _source(config.features, config, encoder, manifest)
    protocol = _protocol(config, source)
    single_label = has_single_labels(labeled)
    start_xla_quietly()

    def read(split: str, windows: str) -> tuple[LabeledFeatures, int]:
        """The rows that the protocol uses of each clip, and the number of clips that keep their only chunk."""
        features = read_features(
            source,
            labeled,
            split,
            "crop" if windows == "crop" else "all",
            seed=config.seed,
            cache=config.features_cache.expanduser(),
            fingerprint=corpus_metadata["fingerprint"],
            on_clip=partial(on_progress, f"Features of {split}"),
        )
        if windows == "chunks":
            return chunks_of(features, source.clip_num_samples, protocol.drops_last_chunk)
        return features.means() if windows == "mean" else features, 0

    if config.head == "own":
        head, fit, labels = _own_head(config, manifest, labeled), None, _labels_of_own_head(manifest, labeled)
        protocol = dataclasses.replace(protocol, head=None)
    else:
        train, _ = read("train", protocol.train_windows)
        valid, _ = read("valid", protocol.train_windows)
        selected, labels = choose_labels(
            labeled,
            train.clip_of_row,
            song_fraction=config.labels,
            combination_fraction=config.labels_like_paper,
            seed=config.seed if config.labels_seed is None else config.labels_seed,
        )
        train = train.select(selected)
        key = {
            "source": source.identity,
            "corpus": corpus_metadata["fingerprint"],
            "train": _examples_hash(labeled, "train", train),
            "valid": _examples_hash(labeled, "valid", valid),
            "seed": config.seed,
        }
        head, settings, fit = _fit(config, protocol, source, train, valid, single_label, key, on_progress)
        protocol = dataclasses.replace(protocol, head=settings)

    scores, distributions = {}, {}
    for split in SPLITS[1:]:
        features, num_rescued = read(split, protocol.score_windows)
        of_split, distributions[split] = evaluate_scores(
            features.labels,
            clip_scores(head, features, protocol.averaged, single_label),
            [item.song_id for item in labeled.items_of(split)],
            labeled.manifest.tag_names,
            single_label=single_label,
        )
        if config.preset == "standard" and single_label and config.features != "majority":
            embeddings, classes = features.means().vectors, features.labels.argmax(axis=1)
            songs = [item.song_id for item in labeled.items_of(split)]
            distributions[split]["neighbour_precision"] = neighbour_precision(embeddings, classes, songs)
            of_split["neighbour_precision"] = distributions[split]["neighbour_precision"].to_json()
        scores[split] = {
            **of_split,
            "num_windows": len(features.vectors),
            "num_clips_of_one_window": num_rescued,
        }
    result = {
        "format_version": FORMAT_VERSION,
        "preset": config.preset,
        **task_metadata(labeled),
        "single_label": single_label,
        "corpus": corpus_metadata,
        "features": source.describe(),
        "protocol": {
            **dataclasses.asdict(protocol),
            "interval": _INTERVAL,
        },
        **({"head": "own", "objective": _objective(manifest)} if fit is None else {}),
        "labels": labels,
        "seed": config.seed,
        **({} if config.labels_seed is None else {"labels_seed": config.labels_seed}),
        "fit": fit,
        "scores": scores,
        "versions": {**versions(), "scikit-learn": metadata.version("scikit-learn")},
    }
    return result, head, distributions["test"]


def clip_scores(head: Head, features: LabeledFeatures, averaged: str, single_label: bool) -> np.ndarray:
    """Probabilities of the tags of each clip, float64 [clips, tags].

    Args:
        head: Scores the rows of each clip.
        features: At least one row per clip.
        averaged: Whether the "probabilities" or the "logits" of a clip's rows are averaged.
        single_label: Softmax over the tags; else a sigmoid for each.
    """
    logits = head.logits(features.vectors).astype(np.float64)
    if averaged == "logits":
        return probabilities(features.mean_by_clip(logits), single_label)
    return features.mean_by_clip(probabilities(logits, single_label))


def _own_head(config: ProbeConfig, manifest: dict[str, Any], labeled: Corpus) -> Head:
    if "head" in manifest:
        raise UsageError(
            f"The head of {config.model} was trained on frozen embeddings and added later, so it is not the "
            "model's own; its scores are in the model card, and --head linear trains another one."
        )
    head = read_head(config.model)
    if manifest["tag_names"] != list(labeled.manifest.tag_names):
        raise UsageError(
            f"The model in {config.model} was trained for other tags than those of {labeled.manifest.name}, such as "
            f"{manifest['tag_names'][0]!r}; give the corpus and the task that it was trained on."
        )
    return head


def _labels_of_own_head(manifest: dict[str, Any], labeled: Corpus) -> dict[str, Any]:
    """The entry "labels" of the result, as `choose_labels` returns it."""
    run = manifest["training"].get("run")
    if run is not None:
        return run["labels"]["selection"]
    # A converted checkpoint does not say; the released heads were trained on the whole train split.
    return choose_labels(labeled, np.arange(len(labeled.rows_of("train"))))[1]


def _objective(manifest: dict[str, Any]) -> str:
    return manifest["training"].get("config", {"objective": "converted"})["objective"]


def _source(kind: str, config: ProbeConfig, encoder: Encoder, manifest: dict[str, Any]) -> FeatureSource:
    shape = encoder.clip_num_samples, encoder.sample_rate_hz
    architecture = manifest["architecture"]["arguments"]
    if kind == "mel":
        return MelFeatures(*shape)
    if kind == "majority":
        return MajorityFeatures(*shape)
    if ":" in kind:
        return import_source(kind, *shape)
    if kind == "untrained":
        untrained = tensorflow_encoder(build_encoder(**architecture, seed=config.seed))
        return EncoderFeatures(untrained, "untrained", {"architecture": architecture, "seed": config.seed})
    step = manifest["training"]["step"]
    return EncoderFeatures(
        encoder, "model", {"model": str(config.model), "architecture": architecture, "training_step": step}
    )


def _protocol(config: ProbeConfig, source: FeatureSource) -> ProbeProtocol:
    protocol = PROTOCOLS[config.preset]
    if config.labels_like_paper is not None:
        # The original selected chunks.
        protocol = dataclasses.replace(protocol, train_windows="chunks")
    hidden_units = MLP_HIDDEN_UNITS if config.head == "mlp" else 0
    return dataclasses.replace(protocol, head=_standardised(protocol.head, source, hidden_units=hidden_units))


def _standardised(
    settings: HeadSettings | LogisticSettings, source: FeatureSource, **changes: Any
) -> HeadSettings | LogisticSettings:
    standardise = settings.standardise or source.needs_standardising
    return dataclasses.replace(settings, standardise=standardise, **changes)


def _fit(
    config: ProbeConfig,
    protocol: ProbeProtocol,
    source: FeatureSource,
    train: LabeledFeatures,
    valid: LabeledFeatures,
    single_label: bool,
    key: dict[str, Any],
    on_progress: OnProgress,
) -> tuple[Head, HeadSettings | LogisticSettings, dict[str, Any]]:
    """The head, the hyperparameters that it was trained with, and the entry "fit" of the result."""
    if isinstance(source, MajorityFeatures):
        return majority_head(train.row_labels, single_label), protocol.head, {"num_steps": 0}
    examples = train.vectors, train.row_labels, valid.vectors, valid.row_labels
    settings, runs = protocol.head, {}
    if isinstance(settings, LogisticSettings):
        best, settings, records = fit_logistic_head(
            *examples,
            single_label=single_label,
            on_fit=partial(on_progress, f"Heads on {source.kind}"),
        )
        entry = {"monitor": settings.monitor, "valid": best.best_value, "num_steps": best.num_steps}
        return best.head, settings, {**entry, "num_runs": len(records), "runs": records}
    fit: Callable = partial(fit_head, *examples, single_label=single_label, seed=config.seed)
    if config.preset == "grid":
        # If features are always standardised, both halves of the grid are the same.
        heads = list(dict.fromkeys(_standardised(one, source) for one in grid_of_heads(single_label)))
        journal = config.features_cache.expanduser() / source.identity[:16] / f"grid-{_hash(key)[:16]}.jsonl"
        best, settings, records = search(heads, fit, journal, key, on_run=partial(on_progress, "Heads of the grid"))
        runs = {"num_runs": len(records), "runs": records}
    else:
        best = fit(settings)
    entry = {"monitor": settings.monitor, "valid": best.best_value, "best_step": best.best_step}
    return best.head, settings, {**entry, "num_steps": best.num_steps, **runs}


def _examples_hash(corpus: Corpus, split: str, features: LabeledFeatures) -> str:
    """Hash of the clips, their numbers of rows and their tags."""
    items = tuple(corpus.items_of(split))
    clips = [[items[clip].id, list(items[clip].tags)] for clip in features.clip_of_row.tolist()]
    return _hash([list(corpus.manifest.tag_names), clips])


def _hash(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
