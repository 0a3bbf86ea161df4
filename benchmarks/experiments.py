"""python -m benchmarks.experiments: which settings of CLMR give better embeddings.

Every setting is changed alone, and every variant trains on the same number of views of the same music. They are
compared on the validation split; the test split is scored only for the variants that --test names, with all seeds, and
with the differences from the paper's recipe on the same songs.

    python -m pipelines.debian_games --set medium
    python -m pipelines.pseudo_tags --corpus corpora/debian_games-medium
    python -m pipelines.accompaniments --download
    python -m benchmarks.experiments
    python -m benchmarks.experiments --variants --test temperature-0.2

The same command continues what was interrupted. Prints one JSON object, and writes it to table.json of --results.
"""

import argparse
import collections
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoder_comparison import PSEUDO_TAGS, open_corpora, run_module
from clmr_tf.config.augmentation import AUGMENTATION_NAMES, AugmentationConfig
from clmr_tf.console import run_command, stderr, stdout
from clmr_tf.errors import UsageError
from clmr_tf.export.__main__ import ExportConfig, export
from clmr_tf.files import exclusive_lock, writable_or_usage_error, write_atomically
from clmr_tf.probe.comparison import difference, scores_of
from clmr_tf.probe.evaluation import probe_model
from clmr_tf.probe.settings import ProbeConfig
from clmr_tf.report.page import markdown_table
from clmr_tf.train.run_folder import METRICS_FILE

PAPER, BASE = "paper", "base"
TABLE_FILE = "table.json"
_BASE: dict[str, Any] = {
    "encoder": "mel_cnn",
    "width": 0.25,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "temperature": 0.1,
}
_PAPER = {"encoder": "sample_cnn", "learning_rate": 3e-4, "schedule": "constant", "temperature": 0.5}
_CHANGES: dict[str, Sequence[Any]] = {
    "temperature": (0.05, 0.2, 0.5),
    "learning_rate": (3e-4, 3e-3),
    "schedule": ("constant",),
    "batch_size": (32, 128),
    "ema_momentum": (0.99,),
    "projection_dim": (16, 128),
    "max_crop_distance_seconds": (0, 3, 10),
    "augmentation": ("thesis", "none"),
}
VARIANTS: dict[str, dict[str, Any]] = {
    PAPER: _PAPER,
    BASE: {},
    **{
        f"{setting.replace('_', '-')}-{value:g}" if not isinstance(value, str) else f"{setting}-{value}": {
            setting: value
        }
        for setting, values in _CHANGES.items()
        for value in values
    },
    "augmentation-without-filter": {"augmentation_changes": ["filter.probability=0"]},
    "augmentation-half": {
        "augmentation_changes": [
            f"{name}.probability={getattr(AugmentationConfig(), name).probability / 2:g}" for name in AUGMENTATION_NAMES
        ]
    },
    # One view is the plain crop, so statistics of batch normalisation over both views would fit neither.
    "augmentation-of-one-view": {"augmentation_changes": ["asymmetric=true"], "two_passes": True},
    **{
        f"augmentation-only-{name}": {"augmentation": f"only-{name}", "two_passes": True} for name in AUGMENTATION_NAMES
    },
}
"""Changes to the base settings by the names of the variants."""
_WARMUP_FRACTION = 1 / 20
_SEEDS_OF_BASE = 3
_METRIC = "average_precision"


class Experiments:
    """Trains and scores variants that have no result yet.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._results: Path = options.results
        self._columns = {PSEUDO_TAGS: (options.corpus, PSEUDO_TAGS), "accompaniments": (options.labelled_corpus, None)}

    def run(self) -> dict[str, Any]:
        """Does everything, and returns the tables as JSON data.

        Raises:
            UsageError: If a corpus or its tags are missing, the results folder cannot be written, another process does
                the same, or the results are of other numbers of steps.
            ClmrError: If a training fails.
        """
        open_corpora(self._options.corpus, self._options.labelled_corpus)
        refused = f"Other experiments are writing to {self._results}; wait for them or choose another --results."
        with contextlib.ExitStack() as stack:
            with writable_or_usage_error(self._results, "choose another folder with --results"):
                self._results.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive_lock(self._results / ".lock", refused))
            for name in self._options.variants:
                # Their spread says which differences between variants mean anything.
                for seed in range(1, 1 + (_SEEDS_OF_BASE if name == BASE else 1)):
                    self._validated(name, seed)
            for name in dict.fromkeys([PAPER, *self._options.test] if self._options.test else []):
                for seed in range(1, self._options.seeds + 1):
                    self._validated(name, seed)
                    for column in self._columns:
                        self._tested(name, seed, column)
            table = self._table()
            write_atomically(self._results / TABLE_FILE, json.dumps(table, indent=1) + "\n")
        return table

    def _settings(self, name: str, seed: int) -> dict[str, Any]:
        settings = {**_BASE, **VARIANTS[name], "seed": seed}
        num_steps = round(self._options.steps * _BASE["batch_size"] / settings["batch_size"])
        return {**settings, "steps": num_steps, "warmup_steps": max(1, round(_WARMUP_FRACTION * num_steps))}

    def _validated(self, name: str, seed: int) -> None:
        path, settings = self._folder(name, seed) / "validation.json", self._settings(name, seed)
        if path.is_file():
            if json.loads(path.read_text(encoding="utf-8"))["settings"] != settings:
                raise UsageError(f"{path} is of other settings; give the same --steps, or choose another --results.")
            return
        run, model = path.parent / "run", path.parent / "model"
        words = [word for key, value in settings.items() for word in _option(key, value)]
        quiet = ["--embeddings-every", "0", "--num-audio-examples", "0", "--checkpoint-every", "50"]
        quiet += ["--keep-checkpoints", "1", "--validate-every", str(settings["steps"])]
        run_module("clmr_tf.train", "--corpus", str(self._options.corpus), *words, *quiet, "--workdir", str(run))
        export(ExportConfig(model=run, out=model, overwrite=True, tflite="none"))
        rows = [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
        accuracies = [row["contrastive_accuracy"] for row in rows]
        record = {
            "settings": settings,
            # Of the last tenth of the training, because one batch says little.
            "contrastive_accuracy": float(np.mean(accuracies[-max(1, len(rows) // 10) :])),
            "scores": {
                column: self._probe(model, column)["scores"]["valid"][_METRIC]["over_tags"] for column in self._columns
            },
        }
        write_atomically(path, json.dumps(record, indent=1) + "\n")

    def _tested(self, name: str, seed: int, column: str) -> None:
        path = self._folder(name, seed) / f"test-{column}.json"
        if not path.is_file():
            result = self._probe(self._folder(name, seed) / "model", column)
            write_atomically(path, json.dumps(result) + "\n")

    def _probe(self, model: Path, column: str) -> dict[str, Any]:
        corpus, task = self._columns[column]
        stderr.print(f"Scoring {model.parent.name} on {column}", markup=False)
        cache = self._results / "features"
        result, _ = probe_model(
            ProbeConfig(model=model, corpus=str(corpus), task=task, baselines=False, features_cache=cache)
        )
        return result

    def _folder(self, name: str, seed: int) -> Path:
        return self._results / f"{name}-seed-{seed}"

    def _table(self) -> dict[str, Any]:
        """All finished variants in the order of VARIANTS, and the tests."""
        rows, tests = [], []
        for name in VARIANTS:
            for folder in sorted(self._results.glob(f"{name}-seed-*")):
                if (path := folder / "validation.json").is_file():
                    rows.append({"variant": name, **json.loads(path.read_text(encoding="utf-8"))})
        tested = {path: path.parent.name.rsplit("-seed-", 1) for path in sorted(self._results.glob("*/test-*.json"))}
        for path, (name, seed) in tested.items():
            result, column = json.loads(path.read_text(encoding="utf-8")), path.stem.removeprefix("test-")
            row = {"variant": name, "seed": int(seed), "column": column, **scores_of(result)[_METRIC].to_json()}
            paper = self._folder(PAPER, int(seed)) / path.name
            if name != PAPER and paper.is_file():
                other = json.loads(paper.read_text(encoding="utf-8"))
                row["minus_paper"] = difference(result, other)["scores"][_METRIC]
            tests.append(row)
        return {"steps": self._options.steps, "base": _BASE, "paper": _PAPER, "validation": rows, "test": tests}


def _option(key: str, value: Any) -> list[str]:
    values = [] if value is True else value if isinstance(value, list) else [value]
    return [f"--{key.replace('_', '-')}", *map(str, values)]


def markdown(table: dict[str, Any]) -> str:
    """The tables for docs/experiments.md."""
    columns = list(table["validation"][0]["scores"]) if table["validation"] else []
    counts = collections.Counter(row["variant"] for row in table["validation"])
    validation = [
        [
            row["variant"] + (f" (seed {row['settings']['seed']})" if counts[row["variant"]] > 1 else ""),
            f"{row['settings']['steps']}",
            f"{row['contrastive_accuracy']:.2f}",
            *(f"{row['scores'][column]['mean']:.3f}" for column in columns),
        ]
        for row in table["validation"]
    ]
    header = ["variant", "steps", "contrastive accuracy", *columns]
    lines = markdown_table(header, validation)
    if table["test"]:
        rows = [
            [
                row["variant"],
                str(row["seed"]),
                row["column"],
                _in_words(row, sign=""),
                _in_words(row["minus_paper"], sign="+") if "minus_paper" in row else "",
            ]
            for row in sorted(table["test"], key=lambda row: (row["column"], row["seed"]))
        ]
        lines += ["", *markdown_table(["variant", "seed", "test split of", "PR-AUC", "minus the paper's recipe"], rows)]
    return "\n".join(lines) + "\n"


def _in_words(score: dict[str, Any], sign: str) -> str:
    low, high = score["interval"]
    return f"{score['mean']:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the experiments; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=450, help="steps of 64 pairs (default: 450)")
    parser.add_argument(
        "--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS), help="which ones (default: all)"
    )
    parser.add_argument("--test", nargs="*", choices=list(VARIANTS), default=[], help="variants to test")
    parser.add_argument("--seeds", type=int, default=2, help="with --test: trainings of each variant (default: 2)")
    parser.add_argument("--corpus", type=Path, default=Path("corpora/debian_games-medium"), help="music to train on")
    parser.add_argument(
        "--labelled-corpus", type=Path, default=Path("corpora/accompaniments"), help="corpus whose tags no network made"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results/experiments"), help="folder of runs, models and scores"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.seeds < 1:
        raise UsageError(f"--steps and --seeds must be at least 1; received {options.steps} and {options.seeds}.")
    stdout.out(json.dumps(Experiments(options).run(), indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
