"""Encoders trained for the same time on the same music; `benchmarks.encoders --minutes` calls it.

Every encoder is trained by CLMR and with labels, each for the same number of minutes on this machine. How many steps
that are is measured first, and kept in plan.json of the results folder. All networks, the same encoders without
training, mel statistics and musicnn's features are scored by `clmr_tf.probe --preset standard` and `retrieval`. What is
finished is skipped, and an interrupted training resumes. The most informative parts come first, and the tables are
written again and again meanwhile; `benchmarks.encoder_table` makes them.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.encoder_table import (
    PLAN_FILE,
    RETRIEVAL,
    SCORES,
    TRAININGS,
    Evaluation,
    Network,
    read_plan,
    write_tables,
)
from benchmarks.flop import forward_flop
from benchmarks.train_step import cpu_has_bfloat16
from clmr_tf.console import stderr
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.resolution import is_prepared
from clmr_tf.data.tasks import task_names_in
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.export.__main__ import ExportConfig, export
from clmr_tf.files import exclusive_lock, writable_or_usage_error, write_atomically
from clmr_tf.hardware import num_usable_cores
from clmr_tf.models.encoders import build_encoder
from clmr_tf.probe.evaluation import probe_model
from clmr_tf.probe.settings import ProbeConfig
from clmr_tf.train.checkpoints import checkpoint_path, list_checkpoints
from clmr_tf.train.run_folder import CHECKPOINTS, CONFIG_FILE, METRICS_FILE, RUN_FILE, TENSORBOARD

DEFAULT_ENCODERS = ("sample_cnn", "mel_cnn", "tune")
DEFAULT_CORPUS = "corpora/debian_games-medium"
DEFAULTS: dict[str, Any] = {"encoders": list(DEFAULT_ENCODERS), "corpus": DEFAULT_CORPUS, "batch_size": 64}
"""Of the options that the other parts of the benchmark have too."""
PSEUDO_TAGS = "pseudo-tags"
LABEL_FRACTIONS = (0.01, 0.05, 0.1, 0.25)
"""Fractions of the labelled songs, besides all of them."""
FASTEST = "fastest"
NUM_CHECKPOINTS = 8
CURVE = (1, 2, 4)
"""Checkpoints that are scored besides the last, in eighths of the training."""

_FEATURES = {"untrained": "untrained", "mel": "mel", "musicnn": "pipelines.musicnn:MusicnnFeatures"}
_SPEED_STEPS = 30
# As far as they are known to matter for networks and corpora of this size; see issue 15 and docs/results.md.
_CLMR = ("--learning-rate", "0.001", "--schedule", "cosine", "--temperature", "0.1")
# Lee et al.'s learning rate, because with the released baseline's 3e-4 SGD learns too little in so few steps.
_SUPERVISED = ("--learning-rate", "0.01", "--best-metric", "validation_loss")
_NUM_VALIDATIONS, _PATIENCE = 40, 12
_OBJECTIVES = {"clmr": "contrastive", "supervised": "supervised"}


@dataclasses.dataclass(frozen=True)
class Column:
    """What networks are scored on.

    Attributes:
        name: Its name in the tables.
        corpus: Prepared corpus.
        task: Labels of the corpus, if not its own tags.
        few_labels: Whether heads are also trained with few labels.
        preset: Of the probe.
    """

    name: str
    corpus: Path
    task: str | None = None
    few_labels: bool = False
    preset: str = "standard"


class Comparison:
    """Trains and scores what has no result yet.

    Args:
        options: Of the command line, see `add_options`.

    Raises:
        UsageError: If a corpus or its pseudo-tags are missing.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._results: Path = options.results
        self._encoders = tuple(dict.fromkeys(options.encoders))
        music, labelled = open_corpora(Path(options.corpus), options.labelled_corpus)
        own = Column(labelled.manifest.name, labelled.folder, few_labels=True)
        self._supervised = (Column(PSEUDO_TAGS, music.folder, PSEUDO_TAGS, few_labels=True), own)
        others = [Column(name, music.folder, name) for name in task_names_in(music.folder) if name != PSEUDO_TAGS]
        others += [Column(f"{own.name}-{name}", labelled.folder, name) for name in task_names_in(labelled.folder)]
        self.columns = (*self._supervised, *others, Column(RETRIEVAL, music.folder, preset="retrieval"))
        fingerprints = {
            "corpus": music.manifest.fingerprint,
            PSEUDO_TAGS: music.for_task(PSEUDO_TAGS).manifest.fingerprint,
            "labelled_corpus": labelled.manifest.fingerprint,
        }
        self._settings = {
            "minutes": options.minutes,
            "width": options.width,
            "batch_size": options.batch_size,
            "precision": options.precision,
            "corpus": music.manifest.name,
            "labelled_corpus": labelled.manifest.name,
            "fingerprints": fingerprints,
        }
        self._has_news = False
        self._plan: dict[str, Any] = {"settings": self._settings, "num_cpus": num_usable_cores(), "trainings": {}}

    def run(self) -> None:
        """Does everything, the most informative first.

        Raises:
            UsageError: If the results folder cannot be written, is in use, or is of other settings.
            ClmrError: If a training fails.
        """
        refused = f"Another comparison is writing to {self._results}; wait for it or choose another --results."
        with contextlib.ExitStack() as stack:
            with writable_or_usage_error(self._results, "choose another folder with --results"):
                self._results.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive_lock(self._results / ".lock", refused))
            self._open_plan()
            # All before anything is trained, so that they are measured under the same conditions.
            for encoder, objective in itertools.product(self._encoders, _OBJECTIVES.values()):
                self._planned(encoder, objective)
            self._do_everything()

    def _do_everything(self) -> None:
        seeds = range(1, self._options.seeds + 1)
        for seed in seeds:
            networks = [Network("clmr", encoder, seed) for encoder in self._encoders]
            for network in networks:
                self._train(network)
                self._score_all(network)
                if seed == 1:
                    self._score_all(Network("untrained", network.encoder))
                self._write_tables()
            if seed == 1:
                networks += [Network("untrained", encoder) for encoder in self._encoders]
                for network in map(Network, self._options.other_features):
                    if self._score_if_available(network):
                        networks.append(network)
                self._write_tables()
                for encoder in self._encoders:
                    self._score_curve(encoder)
                self._write_tables()
            for network in networks:
                self._score_few_labels(network)
                self._write_tables()
        for seed in seeds:
            for fraction in sorted(self._options.supervised_fractions, reverse=True):
                for encoder in self._encoders:
                    self._compare_supervised(encoder, fraction, seed)
                    self._write_tables()

    def _write_tables(self) -> None:
        """Writes the tables, so that they can be read meanwhile."""
        if self._has_news:
            write_tables(self._results)
            self._has_news = False

    def _compare_supervised(self, encoder: str, fraction: float, seed: int) -> None:
        for column in self._supervised:
            network = Network("supervised", encoder, seed, column=column.name, labels=fraction)
            self._train(network)
            self._score(network, column, head="own")
            if fraction == 1 and column.name == PSEUDO_TAGS:
                # Its features know the music and the pseudo-tags, so other labels of that music compare them.
                for other in self.columns:
                    if other.corpus == column.corpus and other != column:
                        self._score(network, other)

    def _score_all(self, network: Network) -> None:
        for column in self.columns:
            self._score(network, column)

    def _score_if_available(self, network: Network) -> bool:
        """False if features of others cannot be fetched."""
        try:
            self._score_all(network)
        except UsageError:
            raise
        except ClmrError as error:
            stderr.print(f"{network.name} is left out: {error}", markup=False)
            return False
        return True

    def _score_few_labels(self, network: Network) -> None:
        fractions = {*LABEL_FRACTIONS, *self._options.supervised_fractions} - {1.0}
        for column in self.columns:
            if column.few_labels:
                for fraction in sorted(fractions):
                    # The draws of the supervised networks are among them.
                    for draw in range(1, max(self._options.draws, self._options.seeds) + 1):
                        self._score(network, column, labels=fraction, draw=draw)

    def _score_curve(self, encoder: str) -> None:
        run = self._results / "runs" / Network("clmr", encoder).name
        num_steps = self._planned(encoder, "contrastive")["steps"]
        for eighths in CURVE:
            network = Network("clmr", encoder, step=num_steps * eighths // NUM_CHECKPOINTS)
            if not self._is_trained(network):
                _export_step(run, network.step, self._model_folder(network))
            self._record_training(network, run)
            for column in self.columns:
                if column.name in (PSEUDO_TAGS, RETRIEVAL):
                    self._score(network, column)

    def _score(
        self, network: Network, column: Column, *, labels: float = 1.0, draw: int = 1, head: str = "linear"
    ) -> None:
        evaluation = Evaluation(network, column.name, network.labels if head == "own" else labels, draw)
        path = self._results / SCORES / evaluation.file
        if path.is_file():
            return
        stderr.print(f"Scoring {path.relative_to(self._results / SCORES)}", markup=False)
        is_model = network.training in _OBJECTIVES
        # Other features need a model for the shape of a clip, and the untrained ones for the architecture.
        model = network if is_model else Network("clmr", network.encoder or self._encoders[0])
        config = ProbeConfig(
            model=self._model_folder(model),
            corpus=str(column.corpus),
            task=column.task,
            preset=column.preset,
            features=_FEATURES.get(network.training, "model"),
            head=head,
            labels=labels,
            labels_seed=draw if labels < 1 else None,
            baselines=False,
            features_cache=self._results / "features",
        )
        result, _ = probe_model(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"evaluation": dataclasses.asdict(evaluation), "result": result}) + "\n")
        self._has_news = True

    def _train(self, network: Network) -> None:
        if self._is_trained(network):
            return
        run = self._results / "runs" / network.name
        run_module("clmr_tf.train", *self._training_options(network), "--workdir", str(run))
        checkpoint = "best" if network.training == "supervised" else "newest"
        export(ExportConfig(model=run, out=self._model_folder(network), checkpoint=checkpoint, tflite="none"))
        self._record_training(network, run)

    def _training_options(self, network: Network) -> list[str]:
        objective = _OBJECTIVES[network.training]
        planned = self._planned(network.encoder, objective)
        num_steps = planned["steps"]
        # CLMR has no labels, so it has the music of the first column.
        column = next((one for one in self._supervised if one.name == network.column), self._supervised[0])
        options = self._common_options(network.encoder, objective, num_steps, planned["precision"], column)
        options += ["--seed", str(network.seed)]
        if objective == "contrastive":
            every = str(num_steps // NUM_CHECKPOINTS)
            options += ["--checkpoint-every", every, "--keep-checkpoints", str(NUM_CHECKPOINTS)]
            options += ["--validate-every", every, "--warmup-steps", str(max(1, num_steps // 20))]
            return options
        every = str(max(1, num_steps // _NUM_VALIDATIONS))
        options += ["--labels", f"{network.labels:g}", "--early-stopping", str(_PATIENCE)]
        return [*options, "--checkpoint-every", every, "--validate-every", every]

    def _common_options(
        self, encoder: str, objective: str, num_steps: int, precision: str, column: Column
    ) -> list[str]:
        """Of all trainings of an objective, also of the one that measures the speed."""
        options = {
            "--corpus": column.corpus,
            "--objective": objective,
            "--encoder": encoder,
            "--width": self._options.width,
            "--batch-size": self._options.batch_size,
            "--precision": precision,
            "--steps": num_steps,
            "--log-every": max(1, min(10, num_steps // NUM_CHECKPOINTS)),
            "--embeddings-every": 0,
            "--num-audio-examples": 0,
        }
        if objective == "contrastive":
            others = _CLMR
        else:
            others = (*_SUPERVISED, *(("--task", column.task) if column.task else ()))
        return [*(str(word) for option in options.items() for word in option), *others]

    def _planned(self, encoder: str, objective: str) -> dict[str, Any]:
        """Precision, seconds of a step, and steps of a training; measured once, so that a resumed one has the same.

        The faster precision is taken, which is not the same one for all encoders.
        """
        key = f"{encoder} {objective}"
        if key not in self._plan["trainings"]:
            candidates = [self._settings["precision"]]
            if candidates == [FASTEST]:
                candidates = ["float32", "mixed_bfloat16"] if cpu_has_bfloat16() else ["float32"]
            seconds, precision = min(
                (self._seconds_per_step(encoder, objective, precision), precision) for precision in candidates
            )
            unit = NUM_CHECKPOINTS if objective == "contrastive" else 1
            num_steps = unit * max(1, round(60 * self._options.minutes / seconds / unit))
            entry = {"precision": precision, "seconds_per_step": seconds, "steps": num_steps}
            self._plan["trainings"][key] = entry
            self._write_plan()
        return self._plan["trainings"][key]

    def _seconds_per_step(self, encoder: str, objective: str, precision: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            options = self._common_options(encoder, objective, _SPEED_STEPS, precision, self._supervised[0])
            run_module("clmr_tf.train", *options, "--validate-every", str(_SPEED_STEPS), "--workdir", folder)
            # Two views of each recording, or one crop with its labels.
            num_clips = self._options.batch_size * (2 if objective == "contrastive" else 1)
            return num_clips / statistics.median(clip_rates(Path(folder)))

    def _record_training(self, network: Network, run: Path) -> None:
        path = self._results / TRAININGS / f"{network.name}.json"
        if path.is_file():
            return
        rows = [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
        last = next(row for row in reversed(rows) if network.step in (None, row["step"]))
        objective = _OBJECTIVES[network.training]
        seconds_per_step = self._planned(network.encoder, objective)["seconds_per_step"]
        record = {
            "network": dataclasses.asdict(network),
            "steps": last["step"],
            # As fast as when the speed was measured, because the machine may have had other work during a training.
            "minutes": last["step"] * seconds_per_step / 60,
            **_size_of(network.encoder, self._options.width),
            "metrics": last,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record, indent=2) + "\n")

    def _model_folder(self, network: Network) -> Path:
        return self._results / "models" / network.name

    def _is_trained(self, network: Network) -> bool:
        """Whether a network is trained, its model is written, and so is the record, which comes last."""
        return (self._results / TRAININGS / f"{network.name}.json").is_file()

    def _open_plan(self) -> None:
        if not (self._results / PLAN_FILE).is_file():
            self._write_plan()
        self._plan = read_plan(self._results)
        for name, now in self._settings.items():
            before = self._plan["settings"].get(name)
            if before != now:
                raise UsageError(
                    f"{self._results} holds a comparison with {name.replace('_', ' ')} {before} and not {now}; use "
                    "the same settings, or choose another folder with --results."
                )

    def _write_plan(self) -> None:
        write_atomically(self._results / PLAN_FILE, json.dumps(self._plan, indent=2) + "\n")


def open_corpora(music: Path, labelled: Path) -> tuple[Corpus, Corpus]:
    """The corpus to train on, which has pseudo-tags, and the one with tags that no network made.

    Raises:
        UsageError: If a corpus or its tags are missing.
    """
    corpus = _open(music, "python -m pipelines.debian_games --set medium")
    other = _open(labelled, "python -m pipelines.accompaniments --download")
    if PSEUDO_TAGS not in task_names_in(music):
        raise UsageError(f"{music} has no pseudo-tags; run python -m pipelines.pseudo_tags --corpus with it.")
    if not other.manifest.tag_names:
        raise UsageError(f"{labelled} has no tags; give --labelled-corpus one that has.")
    return corpus, other


def _open(folder: Path, command: str) -> Corpus:
    if not is_prepared(folder):
        raise UsageError(f"There is no prepared corpus in {folder}; make one, for example with {command}.")
    return Corpus.open(folder)


def clip_rates(run: Path) -> list[float]:
    """Clips per second at each logged step of a run, from its curves."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(run / TENSORBOARD), tensor_size_guidance={"scalars": 0})
    events.Reload()
    name = "training/clips_per_second"
    points = events.Tensors(name) if name in events.Tags()["tensors"] else []
    return [float(make_ndarray(point.tensor_proto)) for point in points]


@functools.cache
def _size_of(encoder: str, width: float) -> dict[str, float]:
    built = build_encoder(encoder, width=width)
    gflop = forward_flop(built, (built.clip_num_samples,)) / 1e9
    return {"gflop_per_view": gflop, "num_weights": built.count_params()}


def _export_step(run: Path, step: int, out: Path) -> None:
    """Exports an earlier checkpoint, as the newest one of a run that has no other."""
    earlier = [path for path in list_checkpoints(run / CHECKPOINTS) if path == checkpoint_path(run / CHECKPOINTS, step)]
    if not earlier:
        raise ClmrError(
            f"{run} has no checkpoint of step {step}; remove it, its model and its record, and train it again."
        )
    with tempfile.TemporaryDirectory() as folder:
        for name in (CONFIG_FILE, RUN_FILE):
            shutil.copyfile(run / name, Path(folder) / name)
        (Path(folder) / CHECKPOINTS).mkdir()
        (Path(folder) / CHECKPOINTS / earlier[0].name).symlink_to(earlier[0].resolve(), target_is_directory=True)
        export(ExportConfig(model=Path(folder), out=out, tflite="none"))


def run_module(module: str, *arguments: str) -> None:
    """Runs a module of the project in a process of its own; ClmrError if it fails."""
    stderr.print(f"$ python -m {module} {shlex.join(arguments)}", markup=False)
    ended = subprocess.run([sys.executable, "-m", module, *arguments], stdout=sys.stderr, check=False)
    if ended.returncode:
        raise ClmrError(
            f"`python -m {module}` ended with exit code {ended.returncode}; run the same command again to "
            "continue, finished parts are kept."
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the comparison."""
    group = parser.add_argument_group("comparison")
    group.add_argument("--minutes", type=float, help="train every encoder for so long, and score it")
    group.add_argument("--seeds", type=int, default=1, help="trainings of each encoder (default: 1)")
    group.add_argument(
        "--draws",
        type=int,
        default=5,
        help="how often the songs with labels are drawn, since scores with few songs depend on which (default: 5)",
    )
    group.add_argument(
        "--other-features",
        nargs="*",
        choices=("mel", "musicnn"),
        default=["mel", "musicnn"],
        help="also score mel statistics and musicnn's features, which take an hour (default: both)",
    )
    group.add_argument("--width", type=float, default=0.5, help="width of the trained encoders (default: 0.5)")
    group.add_argument(
        "--labelled-corpus",
        type=Path,
        default=Path("corpora/accompaniments"),
        help="prepared corpus whose tags no network made (default: corpora/accompaniments)",
    )
    group.add_argument(
        "--supervised-fractions",
        nargs="+",
        type=float,
        default=[0.1, 1.0],
        help="fractions of the labels that networks are trained with (default: 0.1 1)",
    )
    group.add_argument(
        "--precision",
        choices=(FASTEST, "float32", "mixed_bfloat16"),
        default=FASTEST,
        help=f"of the trainings (default: {FASTEST}, measured for each)",
    )
    group.add_argument(
        "--results",
        type=Path,
        default=Path("results/encoders"),
        help="folder of runs, models, scores and tables (default: results/encoders)",
    )
    group.add_argument("--table", action="store_true", help="only print the table of what is finished")


def _refuse_impossible(options: argparse.Namespace) -> None:
    wrong = [fraction for fraction in options.supervised_fractions if not 0 < fraction <= 1]
    for is_right, rule, received in (
        (0 < options.minutes <= 100_000, "--minutes must be above 0 and at most 100000", options.minutes),
        (1 <= options.seeds <= 1000, "--seeds must be from 1 to 1000", options.seeds),
        (1 <= options.draws <= 1000, "--draws must be from 1 to 1000", options.draws),
        (0 < options.width <= 8, "--width must be above 0 and at most 8", options.width),
        (not wrong, "--supervised-fractions must be above 0 and at most 1", (wrong or [1])[0]),
    ):
        if not is_right:
            raise UsageError(f"{rule}; received {received:g}.")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the comparison, or reads its results with --table, and returns the tables as JSON data.

    Raises:
        UsageError: If the options or the corpora are wrong, or there is nothing to read.
        ClmrError: If a part fails.
    """
    if options.table:
        return write_tables(options.results)
    _refuse_impossible(options)
    Comparison(options).run()
    return write_tables(options.results)
