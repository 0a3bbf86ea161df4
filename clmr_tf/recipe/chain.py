"""The commands of a recipe, one after the other: train, export, probe; and which of them are done."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clmr_tf.checkpoint_folder import list_checkpoints, step_of
from clmr_tf.corpus import Corpus
from clmr_tf.corpus_resolution import is_prepared, prepared_name
from clmr_tf.errors import UsageError
from clmr_tf.recipe.recipe import Recipe
from clmr_tf.run_folder import BEST, CHECKPOINTS, CONFIG_FILE, RUN_FILE, settings_that_differ

_STANDARD_RATE_HZ = 22_050
_MODEL_MANIFEST = "manifest.json"
# A pipeline can make several corpora; this is the one that published rows are about, by the name in its manifest.
PUBLISHED_CORPORA = {
    "billboard": "billboard",
    "fma": "fma-medium",
    "gtzan": "gtzan-fault-filtered",
    "magnatagatune": "magnatagatune-pons2017",
    "msd": "msd-lee2017",
}


@dataclasses.dataclass(frozen=True)
class Places:
    """Folders that hold prepared corpora, runs, exported models and computed features."""

    corpora: Path
    runs: Path
    savedmodels: Path
    features_cache: Path


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module: What `python -m` runs.
        arguments: Its command line.
    """

    module: str
    arguments: tuple[str, ...]

    @property
    def line(self) -> str:
        """As a user types it."""
        return shlex.join(["python", "-m", self.module, *self.arguments])


@dataclasses.dataclass(frozen=True)
class Chain:
    """What measures a recipe.

    Attributes:
        recipe: Which one.
        base: The recipe that trains its model: itself, or the one that it names.
        places: Where everything is.
        tag: Tells results with changed settings from others; empty where nothing was changed.
    """

    recipe: Recipe
    base: Recipe
    places: Places
    tag: str = ""

    @property
    def run(self) -> Path:
        """Folder of the training."""
        return self.places.runs / self.base.name

    @property
    def model(self) -> Path:
        """Folder of the exported model."""
        return self.places.savedmodels / self.base.name

    def corpus_folder(self, name: str) -> Path:
        """Where the prepared corpus of a pipeline is, at the sample rate of this recipe."""
        return self.places.corpora / prepared_name(name, self.base.train_config().sample_rate_hz)

    def train(self) -> Command:
        """Trains, or goes on, or finds that there is nothing left to do."""
        settings = {**self.base.train, "corpus": self.corpus_folder(self.base.train["corpus"]), "workdir": self.run}
        return Command("clmr_tf.train", tuple(options_of(settings)))

    def export(self) -> Command:
        """Exports the encoder."""
        settings = {"model": self.run, "checkpoint": self.base.checkpoint, "out": self.model}
        return Command("clmr_tf.export", tuple(options_of(settings)))

    def probe(self, number: int) -> Command:
        """Makes evaluation `number`, counted from 0."""
        settings = self.recipe.probes[number].settings
        places = {
            "model": self.model,
            "corpus": self.corpus_folder(settings["corpus"]),
            "features_cache": self.places.features_cache,
            "out": self.result(number),
        }
        return Command("clmr_tf.probe", tuple(options_of({**settings, **places})))

    def result(self, number: int) -> Path:
        """File with the result of evaluation `number`; a new export of the model removes it."""
        parts = ["evaluation", self.recipe.name, str(number + 1), *([self.tag] if self.tag else [])]
        return self.model / f"{'-'.join(parts)}.json"

    def commands(self) -> list[Command]:
        """All of them, in order."""
        return [self.train(), self.export(), *map(self.probe, range(len(self.recipe.probes)))]

    def is_done(self, place: int) -> bool:
        """Whether the command at a place of `commands` has nothing left to do, now that those before it are done."""
        return (self.is_trained, self.is_exported, lambda: self.is_probed(place - 2))[min(place, 2)]()

    def require_corpora(self) -> None:
        """Raises UsageError, naming the pipeline, if a corpus is not prepared or is not as the recipe needs it."""
        rate_hz = self.base.train_config().sample_rate_hz
        names = [self.base.train["corpus"], *(probe.settings["corpus"] for probe in self.recipe.probes)]
        for name in dict.fromkeys(names):
            folder = self.corpus_folder(name)
            options = {} if rate_hz == _STANDARD_RATE_HZ else {"sample_rate_hz": rate_hz}
            pipeline = Command(f"pipelines.{name}", tuple(options_of({**options, "out": folder}))).line
            if not is_prepared(folder):
                raise UsageError(
                    f"The corpus {name} is not prepared in {folder}; do that with `{pipeline}`, whose --help says "
                    "where the data come from, or give --corpora the folder that has it."
                )
            manifest = Corpus.open(folder).manifest
            received = manifest.name, manifest.sample_rate_hz
            wanted = PUBLISHED_CORPORA.get(name, manifest.name), rate_hz
            if received != wanted:
                raise UsageError(
                    f"The corpus in {folder} is {received[0]} at {received[1]} Hz, and {self.recipe.name} needs "
                    f"{wanted[0]} at {wanted[1]} Hz; move it away and prepare it again with `{pipeline}`."
                )

    def require_same_run(self) -> None:
        """Raises UsageError if the folder of the run holds one with other settings or more steps than the recipe's."""
        if not (self.run / CONFIG_FILE).exists():
            return
        # Loads TensorFlow, which a recipe that was never run needs not wait for.
        from clmr_tf.run_settings import resolve_places

        config, advice = self.base.train_config(), "give other --runs and --savedmodels"
        differing = settings_that_differ(self.run, resolve_places(config))
        if differing:
            raise UsageError(
                f"{self.run} holds a run with other settings ({', '.join(differing)}); {advice}, or with "
                "--train-changes the settings of that run."
            )
        checkpoints = list_checkpoints(self.run / CHECKPOINTS)
        if checkpoints and not config.epochs and step_of(checkpoints[0]) > config.steps:
            raise UsageError(
                f"{self.run} holds a run of {step_of(checkpoints[0])} steps, and {self.base.name} has {config.steps}; "
                f"{advice}, or --train-changes with the steps of that run."
            )

    def require_own_model(self) -> None:
        """Raises UsageError if the folder of the model holds one of another run, which no export replaces unasked."""
        training = _read(self.model / _MODEL_MANIFEST).get("training")
        if training is not None and _first_start(training.get("run")) != _first_start(_read(self.run / RUN_FILE)):
            raise UsageError(
                f"{self.model} holds a model of another run than {self.run}; move it away, bring back its run, or give "
                "another --savedmodels."
            )

    def is_trained(self) -> bool:
        """Whether all steps are done. Where a run may end early, only the training itself can tell: then False."""
        checkpoints = list_checkpoints(self.run / CHECKPOINTS)
        config = self.base.train_config()
        return not config.epochs and bool(checkpoints) and step_of(checkpoints[0]) >= config.steps

    def is_exported(self) -> bool:
        """Whether the model is of this run and of the checkpoint that is there now."""
        checkpoints = list_checkpoints(self.run / (BEST if self.base.checkpoint == "best" else CHECKPOINTS))
        training = _read(self.model / _MODEL_MANIFEST).get("training", {})
        record = _read(self.run / RUN_FILE)
        is_of_run = _first_start(training.get("run")) == _first_start(record) is not None
        return is_of_run and bool(checkpoints) and training.get("step") == step_of(checkpoints[0])

    def is_probed(self, number: int) -> bool:
        """Whether there is a result of evaluation `number`, on the corpus as it is prepared now."""
        corpus = Corpus.open(self.corpus_folder(self.recipe.probes[number].settings["corpus"]))
        return _read(self.result(number)).get("corpus", {}).get("fingerprint") == corpus.manifest.fingerprint


def options_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings by name as a command line."""
    options = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            options += [f"--{option}", *map(str, value)] if value else []
        elif value is not None:
            options += [f"--{option}", str(value)]
    return options


def _read(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing if there is none, or another program's."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _first_start(record: Any) -> str | None:
    """When a run was first started, to the second, which tells it from others of the same name."""
    try:
        return record["starts"][0]["time"]
    except (TypeError, KeyError, IndexError):
        return None
