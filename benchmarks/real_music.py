"""python -m benchmarks.real_music: the comparison on game music in docs/results.md, from training to scores.

    python -m pipelines.debian_games --set medium
    python -m pipelines.pseudo_tags --corpus corpora/debian_games-medium
    python -m benchmarks.real_music --corpus corpora/debian_games-medium

Trains CLMR, the supervised baseline with all, a tenth and a hundredth of the labels, and a short run with each
augmentation alone; scores them and the baselines with the released protocol and the thesis' protocol. Small label
subsets are drawn three times. Every part is a separate command, which is printed. Finished parts are skipped, and an
interrupted training run resumes. It takes hours on two cores.
"""

import argparse
import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from clmr_tf.config.augmentation import AUGMENTATION_NAMES
from clmr_tf.config.command_line import parse_command, to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command, stderr
from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.model_folder import read_manifest

PSEUDO_TAGS = "pseudo-tags"
SEEDS_OF_FRACTION = {1.0: (42,), 0.1: (42, 43, 44), 0.01: (42, 43, 44)}
"""Fractions of the labelled songs, and seeds of the subsets: scores with few songs depend on which are drawn."""
_FRACTIONS_AND_SEEDS = [(fraction, seed) for fraction, seeds in SEEDS_OF_FRACTION.items() for seed in seeds]
_FEATURES = ("majority", "untrained", "mel", "musicnn", "model")
_OTHERS = {"musicnn": "pipelines.musicnn:MusicnnFeatures"}
_PRECISION = ("--precision", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to train.

    Attributes:
        name: The name of its run and its model folder.
        training: Its training options, without the corpus and the workdir.
        takes_best: Whether the best checkpoint is exported instead of the last.
    """

    name: str
    training: tuple[str, ...]
    takes_best: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluation; see `clmr_tf.probe.settings.ProbeConfig`."""

    model: str
    task: str = PSEUDO_TAGS
    features: str = "model"
    head: str = "linear"
    labels: float = 1.0
    preset: str = "released"
    seed: int = 42

    @property
    def file(self) -> str:
        """Returns the name of its result file in the model's folder."""
        return f"evaluation-{self.task}-{self.features}-{self.preset}-{self.head}-{self.labels:g}-{self.seed}.json"


def clmr(num_steps: int) -> Model:
    """CLMR at half width with 64 pairs per step; everything else is as released."""
    options = ("--width", "0.5", "--batch-size", "64", "--steps", str(num_steps), "--checkpoint-every", "250")
    return Model("clmr", (*options, *_PRECISION))


def supervised(fraction: float, num_steps: int, seed: int) -> Model:
    """The same encoder trained with a fraction of the labels, with early stopping on the validation loss.

    The learning rate is Lee et al.'s 0.01, because with the released baseline's 3e-4 SGD learns too little in so few
    steps.
    """
    options = ("--objective", "supervised", "--task", PSEUDO_TAGS, "--width", "0.5", "--labels", f"{fraction:g}")
    ends = ("--steps", str(num_steps), "--validate-every", "50", "--early-stopping", "6", "--checkpoint-every", "50")
    metric = ("--best-metric", "validation_loss", "--learning-rate", "0.01", "--seed", str(seed))
    return Model(f"supervised-{fraction:g}-{seed}", (*options, *ends, *metric, *_PRECISION), takes_best=True)


def with_one_augmentation(preset: str, num_steps: int) -> Model:
    """A short run at a quarter of the width with one augmentation only, or only random crops."""
    options = ("--width", "0.25", "--batch-size", "48", "--steps", str(num_steps), "--augmentation", preset)
    return Model(preset, (*options, *_PRECISION))


def models_of(num_steps: int, num_supervised_steps: int, num_ablation_steps: int) -> list[Model]:
    """Returns all models to train, in order."""
    presets = ["none", *(f"only-{name}" for name in AUGMENTATION_NAMES)] if num_ablation_steps else []
    return [
        clmr(num_steps),
        *(supervised(fraction, num_supervised_steps, seed) for fraction, seed in _FRACTIONS_AND_SEEDS),
        *(with_one_augmentation(preset, num_ablation_steps) for preset in presets),
    ]


def evaluations_of(model: Model) -> Iterator[Evaluation]:
    """Yields the evaluations of a model; those of CLMR include the baselines, which have its architecture."""
    if model.takes_best:
        yield Evaluation(model.name, head="own")
    elif model.name != "clmr":
        yield Evaluation(model.name)
    else:
        for fraction, seed in _FRACTIONS_AND_SEEDS:
            for features in _FEATURES:
                yield Evaluation(model.name, features=features, labels=fraction, seed=seed)
            yield Evaluation(model.name, head="mlp", labels=fraction, seed=seed)
            # Their heads use all windows of a song, not one crop, which takes too long for three untrained encoders.
            for features in ("mel", "model"):
                yield Evaluation(model.name, features=features, labels=fraction, preset="thesis", seed=seed)
        for task in ("soundtrack", "artist"):
            for features in _FEATURES:
                yield Evaluation(model.name, task, features)
            yield Evaluation(model.name, task, head="mlp")


def measure(corpus: str, models: Sequence[Model], runs: Path, exported: Path) -> None:
    """Trains, exports and scores whatever has no result yet.

    Raises:
        UsageError: If an existing model was trained with other settings.
        ClmrError: If a command fails.
    """
    for model in models:
        folder = exported / model.name
        if (folder / "manifest.json").is_file():
            _require_same_training(folder, model, corpus)
        else:
            _run("clmr_tf.train", "--corpus", corpus, *model.training, "--workdir", str(runs / model.name))
            checkpoint = ("--checkpoint", "best") if model.takes_best else ()
            _run("clmr_tf.export", "--model", str(runs / model.name), "--out", str(folder), *checkpoint)
        for evaluation in evaluations_of(model):
            _score(evaluation, corpus, exported)


def _score(evaluation: Evaluation, corpus: str, exported: Path) -> None:
    folder = exported / evaluation.model
    out = folder / evaluation.file
    if not out.is_file():
        where = ("--model", str(folder), "--corpus", corpus, "--out", str(out))
        _run("clmr_tf.probe", *where, *_options(evaluation))


def _options(evaluation: Evaluation) -> list[str]:
    options = ["--task", evaluation.task, "--preset", evaluation.preset, "--head", evaluation.head]
    options += ["--seed", str(evaluation.seed)]
    if evaluation.features != "model":
        options += ["--features", _OTHERS.get(evaluation.features, evaluation.features)]
    if evaluation.labels < 1:
        options += ["--labels", f"{evaluation.labels:g}"]
    return options


def _require_same_training(folder: Path, model: Model, corpus: str) -> None:
    """Raises UsageError if a model was trained with other settings or on another corpus."""
    training = read_manifest(folder)["training"]
    wanted = to_json(parse_command(TrainConfig, model.training, program="python -m clmr_tf.train", description=""))
    names = [option.removeprefix("--").replace("-", "_") for option in model.training if option.startswith("--")]
    pairs = {name: (training["config"][name], wanted[name]) for name in names}
    if not model.takes_best:
        # With a constant learning rate, a longer run is the same up to this step.
        pairs["steps"] = training["step"], wanted["steps"]
    music = Corpus.open(corpus) if wanted["task"] is None else Corpus.open(corpus).for_task(wanted["task"])
    pairs["corpus"] = training["run"]["corpus"]["fingerprint"], music.manifest.fingerprint
    for name, (before, now) in pairs.items():
        if before != now:
            raise UsageError(
                f"{folder} was trained with {name} {before} and not {now}; use the same settings, or choose "
                "other folders with --runs and --models."
            )


def _run(module: str, *arguments: str) -> None:
    stderr.print(f"$ python -m {module} {shlex.join(arguments)}", markup=False)
    ended = subprocess.run([sys.executable, "-m", module, *arguments], stdout=sys.stderr, check=False)
    if ended.returncode:
        raise ClmrError(
            f"`python -m {module}` ended with exit code {ended.returncode}; run the same command again to "
            "continue, finished parts are kept."
        )


def main(arguments: Sequence[str]) -> None:
    """Runs the command; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_music",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", default="corpora/debian_games-medium", help="prepared corpus with pseudo-tags")
    parser.add_argument("--runs", type=Path, default=Path("runs/real-music"), help="folder of the training runs")
    parser.add_argument("--models", type=Path, default=Path("savedmodels/real-music"), help="folder of the models")
    parser.add_argument("--steps", type=int, default=1250, help="steps of CLMR (default: 1250)")
    parser.add_argument(
        "--supervised-steps", type=int, default=1000, help="maximum steps of a baseline (default: 1000)"
    )
    parser.add_argument(
        "--ablation-steps", type=int, default=200, help="steps with one augmentation (default: 200; 0 skips these runs)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if not Path(options.corpus, "tasks", f"{PSEUDO_TAGS}.json").is_file():
        raise UsageError(f"{options.corpus} has no pseudo-tags; run python -m pipelines.pseudo_tags --corpus with it.")
    models = models_of(options.steps, options.supervised_steps, options.ablation_steps)
    measure(options.corpus, models, options.runs, options.models)


if __name__ == "__main__":
    sys.exit(run_command(main))
