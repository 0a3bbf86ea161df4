"""Runs the commands of a recipe one after the other, and compares the scores with the published ones."""

import dataclasses
import functools
import hashlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clmr_tf.console import EXIT_TERMINATED, restore_signal_handler, stderr
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.resolution import is_prepared, prepared_name
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.recipes.recipe import METRICS, PUBLISHED_CORPORA, Recipe, remark_on_test_split
from clmr_tf.train.checkpoints import list_checkpoints, step_of
from clmr_tf.train.run_folder import BEST, CHECKPOINTS, RUN_FILE


@dataclasses.dataclass(frozen=True)
class RecipeRun:
    """A recipe with the folders of its data and results.

    Attributes:
        recipe: The recipe, with the changed settings.
        corpora: Folder of prepared corpora.
        runs: Folder of the runs, each named after the recipe that trains it.
        savedmodels: Folder of the exported models with their results, each named after the same recipe.
        features_cache: Folder of computed features.
        probe_changes: Changed settings of the probes; their results get separate file names.
    """

    recipe: Recipe
    corpora: Path
    runs: Path
    savedmodels: Path
    features_cache: Path
    probe_changes: Sequence[str] = ()

    @property
    def run(self) -> Path:
        """Folder of the training."""
        return self.runs / self.recipe.base

    @property
    def model(self) -> Path:
        """Folder of the exported model."""
        return self.savedmodels / self.recipe.base

    def corpus_folder(self, pipeline: str) -> Path:
        """Folder of the corpus that a pipeline prepares at the sample rate of the recipe."""
        return self.corpora / prepared_name(pipeline, self.recipe.train_config.sample_rate_hz)

    def result(self, number: int) -> Path:
        """File with the result of probe `number`, counted from 0; exporting the model again removes it."""
        parts = ["evaluation", self.recipe.name, str(number + 1)]
        if self.probe_changes:
            changes = json.dumps(sorted(self.probe_changes)).encode()
            parts += ["changed", hashlib.sha256(changes).hexdigest()[:8]]
        return self.model / f"{'-'.join(parts)}.json"

    def commands(self) -> list[list[str]]:
        """Training, export and each probe, as a module for `python -m` with its arguments."""
        train = {"corpus": self.corpus_folder(self.recipe.train["corpus"]), "workdir": self.run}
        export = {"model": self.run, "checkpoint": self.recipe.checkpoint, "out": self.model}
        commands = [
            ["clmr_tf.train", *options_of({**self.recipe.train, **train})],
            ["clmr_tf.export", *options_of(export)],
        ]
        for number, probe in enumerate(self.recipe.probes):
            corpus, out = self.corpus_folder(probe.settings["corpus"]), self.result(number)
            folders = {"model": self.model, "corpus": corpus, "features_cache": self.features_cache, "out": out}
            commands.append(["clmr_tf.probe", *options_of({**probe.settings, **folders})])
        return commands

    def require_corpora(self) -> None:
        """Raises UsageError, with the command that prepares it, if a corpus is missing or is not the published one."""
        rate_hz = self.recipe.train_config.sample_rate_hz
        for pipeline in self.recipe.corpora:
            folder, found = self.corpus_folder(pipeline), "no prepared corpus"
            # Published rows use one corpus of a pipeline; users' recipes may use any.
            wanted = PUBLISHED_CORPORA.get(pipeline)
            if is_prepared(folder):
                manifest = Corpus.open(folder).manifest
                if manifest.sample_rate_hz == rate_hz and wanted in (None, manifest.name):
                    continue
                found = f"{manifest.name} at {manifest.sample_rate_hz} Hz"
            rate = {} if rate_hz == 22_050 else {"sample_rate_hz": rate_hz}
            line = line_of([f"pipelines.{pipeline}", *options_of({**rate, "out": folder})])
            raise UsageError(
                f"{self.recipe.name} needs the corpus {wanted or pipeline} at {rate_hz} Hz, but {folder} contains "
                f"{found}; prepare it with `{line}` (its --help says where the data come from), or give another "
                "--corpora."
            )

    def require_no_longer_run(self) -> None:
        """Raises UsageError if the run has more steps than the recipe: its scores would not belong to the row."""
        config, step = self.recipe.train_config, _newest_step(self.run / CHECKPOINTS)
        if step is not None and not config.epochs and step > config.steps:
            raise UsageError(
                f"{self.run} contains a run of {step} steps, but {self.recipe.base} has {config.steps}; give other "
                "--runs and --savedmodels, or --train-changes with the steps of that run."
            )

    def is_exported(self) -> bool:
        """Whether the model folder holds the current checkpoint of this run."""
        manifest, record = self.model / "manifest.json", self.run / RUN_FILE
        if not manifest.is_file() or not record.is_file():
            return False
        training = _read_json(manifest)["training"]
        starts = training.get("run", {}).get("starts") or [None]
        same_run = starts[0] == _read_json(record)["starts"][0]
        step = _newest_step(self.run / (BEST if self.recipe.checkpoint == "best" else CHECKPOINTS))
        return same_run and training["step"] == step

    def is_probed(self, number: int) -> bool:
        """Whether there is a result of probe `number` on the current corpus."""
        corpus = Corpus.open(self.corpus_folder(self.recipe.probes[number].settings["corpus"]))
        path = self.result(number)
        return path.is_file() and _read_json(path)["corpus"]["fingerprint"] == corpus.manifest.fingerprint

    def execute(self) -> None:
        """Trains, exports and probes, without repeating what is done; CommandFailedError if a command fails."""
        train, export, *probes = self.commands()
        _execute(train)
        if not self.is_exported():
            _execute(export)
        for number, probe in enumerate(probes):
            if not self.is_probed(number):
                _execute(probe)

    def compare(self) -> tuple[list[list[str]], list[str]]:
        """Compares all scores of all probes with the published ones.

        Returns:
            Rows of probe, metric, and in percent measured score, 95 % interval, published score and difference; and
            sentences about test splits that differ from the published ones.
        """
        rows, remarks = [], {}
        for number, probe in enumerate(self.recipe.probes):
            result = _read_json(self.result(number))
            scores = result["scores"]["test"]
            remarks[remark_on_test_split(result["corpus"]["name"], result.get("task"), scores["num_clips"])] = None
            named = [
                str(value) if name in ("corpus", "features", "preset", "head") else f"{name.replace('_', ' ')} {value}"
                for name, value in probe.settings.items()
            ]
            for metric, (heading, path) in METRICS.items():
                score = functools.reduce(lambda entries, key: entries.get(key) or {}, path, scores)
                if score.get("mean") is None:
                    continue
                measured, published = 100 * score["mean"], probe.expected_percent.get(metric)
                interval = "-".join(f"{100 * end:.2f}" for end in score["interval"] or ())
                beside = ["-", "-"] if published is None else [f"{published:g}", f"{measured - published:+.2f}"]
                rows.append([", ".join(named), heading, f"{measured:.2f}", interval or "-", *beside])
        return rows, [remark for remark in remarks if remark]


def options_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings by name as the arguments of a command."""
    options: list[str] = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            options += [f"--{option}", *map(str, value)] if value else []
        elif value is not None:
            options += [f"--{option}", str(value)]
    return options


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _newest_step(folder: Path) -> int | None:
    checkpoints = list_checkpoints(folder)
    return step_of(checkpoints[0]) if checkpoints else None


def line_of(command: Sequence[str]) -> str:
    """A command as a user types it."""
    return shlex.join(["python", "-m", *command])


class CommandFailedError(ClmrError):
    """A command of a recipe failed; it has printed why, and its exit code is passed on."""

    def __init__(self, command: Sequence[str], exit_code: int) -> None:
        super().__init__(f"`python -m {command[0]}` ended with exit code {exit_code}; rerun the recipe to resume.")
        # A negative code is the signal that killed the process; shells add it to 128.
        self.exit_code = exit_code if exit_code > 0 else 128 - exit_code


def _execute(command: Sequence[str]) -> None:
    """Runs a command in a separate process and stops it if this process is stopped."""
    stderr.print(f"$ {line_of(command)}", markup=False)
    stops = []
    # Standard output is only for the comparison.
    with subprocess.Popen([sys.executable, "-m", *command], stdout=sys.stderr) as process:

        def stop(number: int, _frame: object) -> None:
            stops.append(number)
            process.send_signal(number)

        before = signal.signal(signal.SIGTERM, stop)
        try:
            exit_code = process.wait()
        except KeyboardInterrupt:
            # The terminal has also sent Ctrl-C to the command, which saves its work.
            process.wait()
            raise
        finally:
            restore_signal_handler(signal.SIGTERM, before)
    exit_code = exit_code or (EXIT_TERMINATED if stops else 0)
    if exit_code:
        raise CommandFailedError(command, exit_code)
