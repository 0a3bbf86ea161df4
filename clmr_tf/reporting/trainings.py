"""How an evaluated model was trained, by the manifest of the model folder that its results lie in."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from clmr_tf.command_line import to_plain
from clmr_tf.config import CHANGEABLE_ON_RESUME, TrainConfig
from clmr_tf.config_rules import OBJECTIVE_DEFAULTS

MANIFEST_FILE = "manifest.json"
# What a training says elsewhere, or what does not decide what it computes.
_SAID_ELSEWHERE = CHANGEABLE_ON_RESUME | {"seed", "corpus", "objective", "augmentation", "augmentation_changes"}
# Of a model with a head of its own, whose results say which labels they are of as every result does.
LABEL_SETTINGS = frozenset({"labels", "labels_like_paper"})


@dataclasses.dataclass(frozen=True)
class Training:
    """A training, as far as it decides what a model has learnt.

    Attributes:
        step: Steps of the optimizer.
        seed: Of everything drawn in it.
        objective: "contrastive" or another.
        corpus: Name of the corpus.
        corpus_fingerprint: Of the corpus.
        augmentation: Preset.
        augmentation_changes: What was changed of the preset.
        settings: The other settings that decide what is computed, as JSON data.
    """

    step: int
    seed: int
    objective: str
    corpus: str
    corpus_fingerprint: str
    augmentation: str
    augmentation_changes: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def augmentation_words(self) -> str:
        """The preset with its changes."""
        return " ".join([self.augmentation, *self.augmentation_changes])

    def without_labels(self) -> "Training":
        """The same without the settings that say which labels it may use."""
        settings = {name: value for name, value in self.settings.items() if name not in LABEL_SETTINGS}
        return dataclasses.replace(self, settings=settings)

    def changed_settings(self) -> list[str]:
        """The settings that are not the defaults of the objective, each as "batch size 16"."""
        defaults = _defaults_of(self.objective)
        changed = {name: value for name, value in self.settings.items() if defaults.get(name) != value}
        words = [f"{name.replace('_', ' ')} {_plainly(value)}" for name, value in changed.items()]
        if self.augmentation_words != defaults["augmentation"]:
            words.append(f"augmentation {self.augmentation_words}")
        return words


def training_of(folder: Path, features: dict[str, Any]) -> Training | None:
    """The training of the model in a folder.

    Args:
        folder: Where a result lies.
        features: What the result says of its model.

    Returns:
        None where the folder holds no manifest of this model, or one without the settings of its training.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes().decode("utf-8"))
        config, run = manifest["training"]["config"], manifest["training"]["run"]
        step, architecture = manifest["training"]["step"], manifest["architecture"]["arguments"]
        if step != features.get("training_step") or architecture != features.get("architecture"):
            return None
        # A setting that did not exist then, or was left open, had what is now its default.
        said = {name: value for name, value in config.items() if value is not None}
        settings = {**_defaults_of(config["objective"]), **said}
        return Training(
            step=step,
            seed=settings["seed"],
            objective=settings["objective"],
            corpus=run["corpus"]["name"],
            corpus_fingerprint=run["corpus"]["fingerprint"],
            augmentation=settings["augmentation"],
            augmentation_changes=tuple(settings["augmentation_changes"]),
            settings={name: value for name, value in sorted(settings.items()) if name not in _SAID_ELSEWHERE},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Some corpora and other programs have a file of that name, too.
        return None


def _defaults_of(objective: str) -> dict[str, Any]:
    return {**to_plain(TrainConfig()), **OBJECTIVE_DEFAULTS.get(objective, {})}


def _plainly(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
