"""python -m clmr_tf.probe: scores an exported encoder by a classifier on its embeddings."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich import box
from rich.progress import TaskID
from rich.table import Table

from clmr_tf.config.command_line import parse_command
from clmr_tf.config.model_option import require_model
from clmr_tf.console import progress_bar, run_command, stderr, stdout
from clmr_tf.errors import UsageError
from clmr_tf.files import require_writable, write_atomically
from clmr_tf.probe.settings import ProbeConfig


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        ProbeConfig,
        arguments,
        program="python -m clmr_tf.probe",
        description="Scores an exported encoder by a classifier on its frozen embeddings.",
    )
    if config.out is not None:
        require_writable(config.out.expanduser(), "--out")
    model = require_model(config.model)
    stderr.print(f"Probing {model} on {config.corpus} ...", markup=False)
    (_quick if config.preset == "quick" else _with_head)(config, model)


def _quick(config: ProbeConfig, model: Path) -> None:
    defaults = ProbeConfig()
    for name in ("head", "features", "labels", "labels_like_paper"):
        if getattr(config, name) != getattr(defaults, name):
            raise UsageError(
                f"--{name.replace('_', '-')} is of no effect with --preset quick; choose released, thesis or grid."
            )
    # After the command line is known to be right: TensorFlow takes seconds to load.
    from clmr_tf.export.model_folder import record_score
    from clmr_tf.probe.quick import probe

    result = probe(model, config.corpus, config.corpora.expanduser(), config.seed, config.task)
    stdout.print(_table(result))
    by_seed = result["rows"][1]["by_seed"]
    each = ", ".join(f"{one['score']:.3f}" for one in by_seed)
    stdout.print(f"The untrained encoder is the mean of {len(by_seed)} seeds, by song: {each}")
    difference = result["trained_minus_untrained"]
    low, high = difference["interval"]
    stdout.print(f"Trained minus untrained, by song: {difference['score']:+.3f} (95 %: {low:+.3f} to {high:+.3f})")
    name = "-".join([result["corpus"]["name"], *([config.task] if config.task else []), *_seed_of(config)])
    out = (config.out or model / f"probe-{name}.json").expanduser()
    _write(out, result)
    if _lies_in(model, out):
        record_score(model, name, {"metric": result["metric"], "split": "test", **result["rows"][0]})


def _with_head(config: ProbeConfig, model: Path) -> None:
    from clmr_tf.export.model_folder import record_score
    from clmr_tf.models.heads import head_file_of
    from clmr_tf.probe.evaluation import main_score, probe_with_head
    from clmr_tf.probe.settings import request_of

    heads = []
    with shown_progress() as show:
        result = probe_with_head(request_of(config), show, heads.append)
    stdout.print(_head_table(result))
    test = result["scores"]["test"]
    for what, names in (
        ("Not scored, since no test clip has them", test["tags_without_positives"]),
        ("Not scored, since all test clips have them", test["tags_without_negatives"]),
        ("No training example has", result["labels"]["tags_without_positives"]),
    ):
        if names:
            stdout.print(f"{what}: {', '.join(names)}", markup=False)
    if test["num_clips_of_one_window"]:
        stdout.print(
            f"{test['num_clips_of_one_window']} test clips have one window, which the original could not score; "
            "they are scored by it."
        )
    name = _name_of(config, result)
    out = (config.out or model / f"evaluation-{name}.json").expanduser()
    if config.features == "model" and config.head != "own":
        # Before the result, which stands for it; `clmr_tf.export --head` takes both.
        heads[0].save(head_file_of(out))
    _write(out, result)
    if config.features == "model" and _lies_in(model, out):
        record_score(model, name, {"split": "test", **main_score(result)})


def _name_of(config: ProbeConfig, result: dict) -> str:
    """What tells a result from others of the same model."""
    parts = [result["corpus"]["name"], *([config.task] if config.task else []), config.preset]
    parts += [config.head] if config.preset != "grid" else []
    parts += [result["features"]["kind"]] if config.features != "model" else []
    parts += [f"labels-{config.labels:g}"] if config.labels < 1 else []
    parts += [f"labels-like-paper-{config.labels_like_paper:g}"] if config.labels_like_paper is not None else []
    return "-".join([*parts, *_seed_of(config)])


def _seed_of(config: ProbeConfig) -> list[str]:
    return [f"seed-{config.seed}"] if config.seed != ProbeConfig().seed else []


def _lies_in(model: Path, out: Path) -> bool:
    return out.parent.resolve() == model.resolve()


def _write(path: Path, result: dict) -> None:
    write_atomically(path, json.dumps(result, indent=2) + "\n")
    stdout.print(f"Written to {path}", markup=False)


@contextlib.contextmanager
def shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function that shows what is done, how much, and of how much: a bar in a terminal, nothing elsewhere."""
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=of)

        yield show


def _head_table(result: dict) -> Table:
    table = Table(title=f"{result['preset']} on {result['corpus']['name']}", box=box.SIMPLE)
    for heading in ("test", "value", "95 %", "clips", "songs"):
        table.add_column(heading, no_wrap=True)
    test = result["scores"]["test"]
    rows = [("accuracy", test["accuracy"])] if result["single_label"] else []
    for metric, name in (("roc_auc", "ROC-AUC"), ("average_precision", "average precision")):
        rows += [(f"{name} {over.replace('_', ' ')}", test[metric][over]) for over in ("over_tags", "over_clips")]
    for name, score in rows:
        if score["mean"] is not None:
            low, high = score["interval"]
            clips = score.get("num_clips", test["num_clips"])
            table.add_row(name, f"{score['mean']:.4f}", f"{low:.4f}-{high:.4f}", str(clips), str(test["num_songs"]))
    return table


def _table(result: dict) -> Table:
    test = result["splits"]["test"]
    table = Table(title=f"Linear probe on {result['corpus']['name']}: {result['metric']}", box=box.SIMPLE)
    for heading in ("features", "by song", "95 %", "by clip", "split", "songs", "clips"):
        table.add_column(heading, no_wrap=True)
    for row in result["rows"]:
        low, high = row["interval"]
        scores = f"{row['score']:.3f}", f"{low:.3f}-{high:.3f}", f"{row['clip_score']:.3f}"
        table.add_row(row["features"], *scores, "test", str(test["num_recordings"]), str(test["num_clips"]))
    return table


if __name__ == "__main__":
    sys.exit(run_command(main))
