"""Result files and manifests as the probe and the export write them, with scores that a test chooses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import OBJECTIVE_DEFAULTS, TrainConfig
from clmr_tf.probe.protocols import PROTOCOLS
from clmr_tf.report.results import Row, read_results, rows_of

TAGS = ("guitar", "piano", "harp")
ARCHITECTURE = {"width": 0.5, "sample_rate_hz": 22050}
CHOICES = {
    "all": "all",
    "songs": "fraction of the songs",
    "like-paper": "fraction of the examples of each combination of tags, at least one",
}


def scores(per_tag: dict[str, float | None], tags=TAGS, accuracy: float | None = None) -> dict[str, Any]:
    """Average precision of tags as given, ROC-AUC a tenth higher, intervals 0.04 below to 0.06 above."""
    per_tag = {tag: per_tag.get(tag) for tag in tags}
    plain: dict[str, Any] = {
        "num_songs": 20,
        "num_clips": 25,
        "num_windows": 250,
        "num_clips_of_one_window": 0,
        "tags_without_positives": [tag for tag, value in per_tag.items() if value is None],
        "tags_without_negatives": [],
    }
    for metric, shift in (("average_precision", 0.0), ("roc_auc", 0.1)):
        values = {tag: None if value is None else round(value + shift, 6) for tag, value in per_tag.items()}
        scored = [value for value in values.values() if value is not None]
        mean = sum(scored) / len(scored) if scored else None
        plain[metric] = {"over_tags": average(mean), "over_clips": average(mean), "per_tag": values}
    if accuracy is not None:
        plain["accuracy"] = average(accuracy)
    return plain


def average(mean: float | None) -> dict[str, Any]:
    return {"mean": mean, "interval": None if mean is None else [mean - 0.04, mean + 0.06]}


def result(
    per_tag: dict[str, float | None] | float,
    *,
    kind: str = "mel",
    head: str = "linear",
    preset: str = "released",
    corpus: str = "songs",
    fingerprint: str = "c" * 64,
    task: str | None = None,
    choice: str = "all",
    fraction: float = 1.0,
    seed: int = 42,
    step: int = 100,
    model_hash: str = "a" * 64,
    objective: str = "supervised",
    tags=TAGS,
    accuracy: float | None = None,
    valid: dict[str, float | None] | float | None = None,
    num_test_clips: int = 25,
    width: float = 0.5,
) -> dict[str, Any]:
    """A result; `head` is "linear", "mlp" or "own", and `width` that of an untrained encoder."""
    protocol = json.loads(json.dumps(dataclasses.asdict(PROTOCOLS[preset])))
    protocol["interval"] = {"resampled": "songs", "num_resamplings": 1000, "percentiles": [2.5, 97.5]}
    protocol["head"] |= {"hidden_units": 512 if head == "mlp" else 0, "standardise": kind == "mel"}
    if choice == "like-paper":
        protocol["train_windows"] = "chunks"
    features: dict[str, Any] = {"kind": kind}
    if kind == "model":
        features |= {"model_hash": model_hash, "model": "savedmodels/x", "architecture": ARCHITECTURE}
        features["training_step"] = step
    if kind == "untrained":
        features |= {"model_hash": f"{seed:064x}", "architecture": {**ARCHITECTURE, "width": width}, "seed": seed}
    per_tag, valid = (
        dict.fromkeys(tags, one) if isinstance(one, float | int) else one for one in (per_tag, valid or per_tag)
    )
    plain = {
        "format_version": 1,
        "preset": preset,
        "single_label": accuracy is not None,
        "corpus": {"name": corpus, "fingerprint": fingerprint, "tag_names": list(tags)},
        "features": features,
        "protocol": protocol,
        "labels": {
            "choice": CHOICES[choice],
            "fraction": fraction,
            "num_songs": max(1, round(200 * fraction)),
            "num_clips": max(1, round(400 * fraction)),
            "num_examples": max(1, round(4000 * fraction)),
            "of": {"num_songs": 200, "num_clips": 400, "num_examples": 4000},
            "tags_without_positives": [],
        },
        "seed": seed,
        "fit": {"monitor": "loss", "valid": 0.5, "best_step": 3, "num_steps": 9},
        "scores": {"valid": scores(valid, tags, accuracy), "test": scores(per_tag, tags, accuracy)},
        "versions": {"clmr_tf": "0.1.0"},
    }
    plain["scores"]["test"]["num_clips"] = num_test_clips
    if task is not None:
        plain["task"] = {"name": task, "fingerprint": "7" * 64}
    if head == "own":
        plain |= {"head": "own", "objective": objective, "fit": None}
        protocol["head"] = None
    return plain


def rows_in(folder: Path, *results: tuple[dict[str, Any], dict[str, Any] | None]) -> list[Row]:
    """Writes results and the manifests of their models, each into a folder of its own, and reads them as rows.

    Args:
        folder: Where to write.
        results: Each with the settings of its training, or None for a result without a manifest.
    """
    for number, (plain, training) in enumerate(results):
        if training is not None:
            write_manifest(folder / str(number), **{"step": plain["features"]["training_step"], **training})
        write(folder / str(number) / "evaluation-x.json", plain)
    return rows_of(read_results(folder))[0]


def write_manifest(folder: Path, step: int = 100, trained_on: str = "songs", **settings) -> None:
    """The manifest of a model that was trained with these settings and the defaults of its objective."""
    folder.mkdir(parents=True, exist_ok=True)
    objective = settings.get("objective", "contrastive")
    config = {**to_json(TrainConfig()), **OBJECTIVE_DEFAULTS[objective], "width": 0.5, **settings}
    corpus = {"name": trained_on, "fingerprint": f"fingerprint of {trained_on}"}
    manifest = {
        "format_version": 1,
        "architecture": {"class": "SampleCNN", "arguments": ARCHITECTURE},
        "training": {"step": step, "config": config, "run": {"starts": [], "corpus": corpus}},
        "scores": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def write(path: Path, plain: dict[str, Any]) -> Path:
    """Writes a result to PATH, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=2), encoding="utf-8")
    return path
