"""python -m docs.make: draws the pictures and writes the tables of docs/ from the recorded runs.

    python -m docs.make                                                     uses all recorded runs
    python -m docs.make --record NAME --run runs/X                          records a run first
    python -m docs.make --record-encoders results/encoders                  records the benchmark's results first
    python -m docs.make --record-experiments results/experiments            the same for docs/experiments.md

A recorded run is docs/runs/NAME: the config.json, run.json and metrics.jsonl of the run.
"""

import argparse
import json
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from benchmarks import experiments
from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import OBJECTIVE_DEFAULTS, TrainConfig
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import UsageError
from clmr_tf.report.pictures import png_of
from docs import encoders

DOCS = Path(__file__).parent
RUNS = DOCS / "runs"
RUN_FILES = ("config.json", "run.json", "metrics.jsonl")
_PLACE_SETTINGS = ("workdir", "corpora")
EXPERIMENTS = "experiments.json"
_EXPERIMENTS_HEAD = """\
# Experiments with the recipe
`python -m benchmarks.experiments` trains on debian_games with one changed setting after the other, and
`python -m docs.make --record-experiments results/experiments` writes this page. All variants train on {num_pairs:,}
pairs. The scores are PR-AUC of the preset [standard](evaluation.md) on the **validation** split, on which the L2
strengths of the heads were chosen too. The seeds of the base settings show how much scores vary by chance. The test
split is scored for chosen variants only.

The base settings: {base}. The paper's recipe: {paper}, otherwise the same. `augmentation-half` halves the probability
of every augmentation. `augmentation-of-one-view` and `augmentation-only-...` leave the second view as it was cropped,
and encode the views in [two passes](training.md#one-pass-or-two).

"""


def record(name: str, run: Path) -> None:
    """Copies the files of a run to docs/runs/NAME.

    Raises:
        UsageError: If a file of the run is missing.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UsageError(f"A recorded run has a name of letters, digits, - and _; received {name!r}.")
    missing = [file for file in RUN_FILES if not (run / file).is_file()]
    if missing:
        raise UsageError(f"{run} has no {', '.join(missing)}; give --run the folder of a run.")
    (RUNS / name).mkdir(parents=True, exist_ok=True)
    for file in RUN_FILES:
        shutil.copyfile(run / file, RUNS / name / file)


def draw(folder: Path) -> Figure:
    """Draws loss and contrastive accuracy over the steps."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = np.array([row["step"] for row in rows])
    figure, both = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    titles = {"loss": "NT-Xent loss", "contrastive_accuracy": "contrastive accuracy"}
    for axes, (name, title) in zip(both, titles.items(), strict=True):
        values = np.array([row[name] for row in rows])
        axes.plot(steps, values, color="#9db7d5", linewidth=0.8)
        axes.plot(*_moving_average(steps, values), color="#1f4e8c", linewidth=1.8)
        axes.set(title=title, xlabel="step")
    return figure


def describe(name: str) -> str:
    """The section of results.md about one recorded run."""
    folder = RUNS / name
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tenth = max(1, len(rows) // 10)
    means = [
        f"{np.mean([row[key] for row in part]):.3f}"
        for key in ("loss", "contrastive_accuracy")
        for part in (rows[:tenth], rows[-tenth:])
    ]
    last = run["starts"][-1]
    lines = [
        f"## {name}",
        f"![Loss and contrastive accuracy of {name}]({name}.png)",
        "",
        f"`{command_of(config, name)}`",
        "",
        f"{rows[-1]['step']} steps in {len(run['starts'])} start(s) on {last['hardware']['num_cpus']} CPU cores; "
        f"augmentation preset {config['augmentation']}. Loss {means[0]} to {means[1]}, contrastive accuracy "
        f"{means[2]} to {means[3]} (means of the first and the last tenth of the logged steps).",
    ]
    return "\n".join(lines) + "\n"


def describe_experiments() -> str:
    """The page experiments.md."""
    table = json.loads((DOCS / EXPERIMENTS).read_text(encoding="utf-8"))
    base, paper = (
        " ".join(_option(key, value) for key, value in table[kind].items())
        for kind in (experiments.BASE, experiments.PAPER)
    )
    num_pairs = table["steps"] * table["base"]["batch_size"]
    return _EXPERIMENTS_HEAD.format(num_pairs=num_pairs, base=f"`{base}`", paper=f"`{paper}`") + experiments.markdown(
        table
    )


def command_of(config: dict, name: str) -> str:
    """The command that starts a run like the recorded one."""
    defaults = {**to_json(TrainConfig()), **OBJECTIVE_DEFAULTS[config["objective"]]}
    # Recorded runs may have settings that this version no longer has.
    changed = {key: value for key, value in config.items() if key in defaults and defaults[key] != value}
    options = [_option(key, value) for key, value in changed.items() if key not in _PLACE_SETTINGS]
    return " ".join(["python -m clmr_tf.train", *options, f"--workdir runs/{name}"])


def _option(key: str, value: object) -> str:
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    values = value if isinstance(value, list) else [value]
    return " ".join([f"--{name}", *(shlex.quote(str(one)) for one in values)])


def _moving_average(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = max(1, len(values) // 20)
    return np.convolve(steps, np.ones(size) / size, "valid"), np.convolve(values, np.ones(size) / size, "valid")


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description=__doc__)
    parser.add_argument("--record", metavar="NAME", help="record a run under this name first")
    parser.add_argument("--run", type=Path, help="with --record: the folder of the run")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    parser.add_argument("--record-encoders", metavar="RESULTS", type=Path, help="record what the benchmark measured")
    parser.add_argument(
        "--record-experiments", metavar="RESULTS", type=Path, help="the same for benchmarks.experiments"
    )
    options = parser.parse_args(arguments)
    if options.record_encoders:
        encoders.record(options.record_encoders, DOCS)
    if options.record_experiments:
        shutil.copyfile(options.record_experiments / experiments.TABLE_FILE, DOCS / EXPERIMENTS)
    if options.record:
        if options.run is None:
            raise UsageError("--record needs --run, the folder of the run.")
        record(options.record, options.run)
    names = sorted(folder.name for folder in RUNS.glob("*") if folder.is_dir())
    if not names:
        raise UsageError(f"There is no recorded run in {RUNS}; record one with --record NAME --run FOLDER.")
    for name in names:
        (DOCS / f"{name}.png").write_bytes(png_of(draw(RUNS / name)))
    head = "# Results\n`python -m docs.make` writes this page from records of the measurements.\n"
    sections = [encoders.section(DOCS), *map(describe, names)]
    (DOCS / "results.md").write_text("\n".join([head, *sections]), encoding="utf-8")
    if (DOCS / EXPERIMENTS).is_file():
        (DOCS / "experiments.md").write_text(describe_experiments(), encoding="utf-8")
    stdout.print(f"Wrote {DOCS / 'results.md'} and {len(names)} pictures", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
