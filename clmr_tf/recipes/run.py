"""The commands of a recipe, carried out and compared with the published number."""

import dataclasses
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clmr_tf.console import stderr
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.resolution import is_prepared, prepared_name
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.recipes.recipe import METRICS, Recipe
from clmr_tf.report.published import read_published
from clmr_tf.train.checkpoints import list_checkpoints, step_of
from clmr_tf.train.loop import noted_signals
from clmr_tf.train.run_folder import BEST, CHECKPOINTS, CONFIG_FILE, RUN_FILE, settings_that_differ

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
        from clmr_tf.train.run import resolve_places

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


METRIC_WORDS: Mapping[str, str] = {
    "roc_auc": "ROC-AUC",
    "average_precision": "PR-AUC",
    "roc_auc_by_clip": "ROC-AUC by clip",
    "average_precision_by_clip": "PR-AUC by clip",
    "accuracy": "accuracy",
}
"""What the paper calls the metrics."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One score.

    Attributes:
        probe: Which evaluation, in words.
        metric: A name in `METRICS`.
        measured_percent: On the test split.
        interval_percent: 95 %, over songs; None where nothing could be resampled.
        expected_percent: As published; None where nothing was.
        remark: Why the two are not to be compared; None where they are.
    """

    probe: str
    metric: str
    measured_percent: float
    interval_percent: tuple[float, float] | None
    expected_percent: float | None
    remark: str | None


def compare(chain: Chain) -> list[Comparison]:
    """All scores of all evaluations of a chain that was run, with the published ones.

    Raises:
        ClmrError: If a result cannot be read.
    """
    comparisons = []
    for number, probe in enumerate(chain.recipe.probes):
        path = chain.result(number)
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            scores, task = plain["scores"]["test"], plain.get("task")
            tested = plain["corpus"]["name"], task and task["name"], scores["num_clips"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClmrError(f"The result {path} cannot be read; remove it and run the recipe again.") from error
        remark = read_published().remark_on_test(*tested)
        for metric, places in METRICS.items():
            score = _score(scores, places)
            if score.get("mean") is None:
                continue
            interval = score["interval"] and tuple(100 * value for value in score["interval"])
            expected = probe.expected_percent.get(metric)
            measured = 100 * score["mean"]
            comparisons.append(Comparison(words_of(probe.settings), metric, measured, interval, expected, remark))
    return comparisons


def corpora_in_words(recipe: Recipe, recipes: Mapping[str, Recipe]) -> str:
    """The corpus that is learnt from, and the one that is scored where it is another: "fma, magnatagatune"."""
    base = recipe if recipe.model_of is None else recipes[recipe.model_of]
    corpora = [base.train["corpus"], *(probe.settings["corpus"] for probe in recipe.probes)]
    return ", ".join(dict.fromkeys(corpora))


def expected_in_words(recipe: Recipe) -> str:
    """The scores of a recipe in percent, but for those by clip: "ROC-AUC 88.49, PR-AUC 35.11 (linear); ..."."""
    expectations = []
    for probe in recipe.probes:
        scores = [
            f"{METRIC_WORDS[name]} {probe.expected_percent[name]:g}"
            for name in ("roc_auc", "average_precision", "accuracy")
            if name in probe.expected_percent
        ]
        head = probe.settings.get("head", probe.settings["preset"])
        expectations += [f"{', '.join(scores)} ({head})"] if scores else []
    return "; ".join(expectations)


def words_of(settings: Mapping[str, Any]) -> str:
    """An evaluation in a few words, such as "magnatagatune, thesis, linear, labels 0.01"."""
    words = [str(settings[name]) for name in ("corpus", "features", "preset", "head") if name in settings]
    for name in ("labels", "labels_like_paper"):
        if settings.get(name) is not None:
            words.append(f"{name.replace('_', ' ')} {settings[name]}")
    return ", ".join(words)


def _score(scores: Any, places: tuple[str, ...]) -> dict[str, Any]:
    """Mean and interval of one metric; empty where the task has it not."""
    for place in places:
        scores = scores.get(place, {})
    return scores


_SECONDS_BETWEEN_LOOKS = 0.2


class CommandFailedError(ClmrError):
    """A command of a recipe has ended with an error, which it has said itself; its exit code goes on."""

    def __init__(self, command: Command, exit_code: int) -> None:
        super().__init__(
            f"`python -m {command.module}` has ended with exit code {exit_code}; what is done stays done, and the "
            "same recipe again goes on from there."
        )
        # Of a process that a signal has killed: as a shell says it.
        self.exit_code = exit_code if exit_code > 0 else 128 - exit_code


def run_chain(chain: Chain) -> None:
    """Trains, exports and probes; what is done is not done again.

    Raises:
        CommandFailedError: If a command fails or is stopped.
    """
    for place, command in enumerate(chain.commands()):
        if chain.is_done(place):
            stderr.print(f"Done already: {command.line}", markup=False)
        else:
            _run(command)


def _run(command: Command) -> None:
    stderr.print(f"$ {command.line}", markup=False)
    line = [sys.executable, "-m", command.module, *command.arguments]
    # What it prints is on the way to the result, which alone goes to standard output.
    with noted_signals() as noted, subprocess.Popen(line, stdout=sys.stderr) as process:
        is_told = False
        try:
            while process.poll() is None:
                # A terminal sends Ctrl-C to both; SIGTERM comes to this process alone.
                if signal.SIGTERM in noted and not is_told:
                    process.terminate()
                    is_told = True
                try:
                    process.wait(_SECONDS_BETWEEN_LOOKS)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            # A second signal: it shall end now, and no process shall stay behind.
            process.terminate()
            raise
    # One that ended well although it was told to stop is the last one all the same.
    exit_code = process.returncode or (128 + noted[0] if noted else 0)
    if exit_code:
        raise CommandFailedError(command, exit_code)
