"""`python -m clmr_tf.probe`: scores an exported encoder by a classifier on its embeddings, or by retrieval."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.progress import TaskID
from rich.table import Table

from clmr_tf.config.command_line import parse_command, require_model
from clmr_tf.console import progress_bar, run_command, stderr, stdout
from clmr_tf.files import require_writable, write_atomically
from clmr_tf.probe.settings import ProbeConfig


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        ProbeConfig,
        arguments,
        program="python -m clmr_tf.probe",
        description="Scores an exported encoder by a classifier on its frozen embeddings, or by retrieval.",
    )
    if config.out is not None:
        require_writable(config.out.expanduser(), "--out")
    config = dataclasses.replace(config, model=require_model(config.model))
    stderr.print(f"Probing {config.model} on {config.corpus} ...", markup=False)
    # TensorFlow takes seconds to import, so errors in the options are reported first.
    from clmr_tf.export.model_card import record_score
    from clmr_tf.models.heads import head_file_of
    from clmr_tf.probe.evaluation import main_scores, probe_model

    with shown_progress() as on_progress:
        result, head = probe_model(config, on_progress)
    _show(result)
    name = _name_of(config, result)
    kind = "retrieval" if config.preset == "retrieval" else "evaluation"
    out = (config.out or config.model / f"{kind}-{name}.json").expanduser()
    if head is not None and config.features == "model" and config.head != "own":
        # The head is written before the result, which refers to it; `clmr_tf.export --head` reads both.
        head.save(head_file_of(out))
    write_atomically(out, _text_of(result))
    stdout.print(f"Written to {out}", markup=False)
    if config.features == "model" and out.parent.resolve() == config.model.resolve():
        for suffix, score in main_scores(result).items():
            record_score(config.model, f"{name}{suffix}", score)


def _name_of(config: ProbeConfig, result: dict) -> str:
    """Distinguishes the results of a model: corpus, and options that are not the defaults."""
    parts = [result["corpus"]["name"], *([config.task] if config.task else [])]
    parts += [config.preset] if config.preset != "retrieval" else []
    parts += [config.head] if config.preset not in ("retrieval", "grid") else []
    parts += [result["features"]["kind"]] if config.features != "model" else []
    parts += [f"labels-{config.labels:g}"] if config.labels < 1 else []
    parts += [f"labels-like-paper-{config.labels_like_paper:g}"] if config.labels_like_paper is not None else []
    parts += [f"labels-seed-{config.labels_seed}"] if config.labels_seed is not None else []
    parts += [f"seed-{config.seed}"] if config.seed != ProbeConfig.seed else []
    return "-".join(parts)


def _text_of(result: dict) -> str:
    """Indented JSON, except for the thousands of numbers that comparisons need, which are in one line."""
    text = json.dumps({name: entry for name, entry in result.items() if name != "paired"}, indent=2)
    if "paired" in result:
        text = f'{text.removesuffix("}").rstrip()},\n  "paired": {json.dumps(result["paired"])}\n}}'
    return f"{text}\n"


@contextlib.contextmanager
def shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a callback that takes a description, the amount done and the total; shows a bar in a terminal only."""
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        yield on_progress


def _show(result: dict) -> None:
    if result["preset"] == "retrieval":
        stdout.print(_retrieval_table(result))
        _show_differences(result, ["clean/recall_at_1", "chain/recall_at_1"])
        return
    stdout.print(_head_table(result))
    _show_differences(result, ["accuracy", "neighbour_precision"] if result["single_label"] else ["average_precision"])
    test = result["scores"]["test"]
    for what, names in (
        ("Not scored because no test clip has them", test["tags_without_positives"]),
        ("Not scored because all test clips have them", test["tags_without_negatives"]),
        ("Without a training example", result["labels"]["tags_without_positives"]),
    ):
        if names:
            stdout.print(f"{what}: {', '.join(names)}", markup=False)
    if test["num_clips_of_one_window"]:
        stdout.print(
            f"{test['num_clips_of_one_window']} test clips have only one window, which is scored here; "
            "the original could not score such clips."
        )


def _show_differences(result: dict, metrics: Sequence[str]) -> None:
    for entry in result.get("differences", ()):
        minus = entry["minus"]
        name = minus.get("file", f"{minus['features']['kind']} features")
        for metric in metrics:
            score = entry["scores"].get(metric, {})
            if score.get("interval"):
                low, high = score["interval"]
                shown = f"{score['mean']:+.3f} (95 %: {low:+.3f} to {high:+.3f})"
                stdout.print(f"Minus {name}, {metric.replace('_', ' ')}: {shown}", markup=False)


def _retrieval_table(result: dict) -> Table:
    protocol = result["protocol"]
    title = (
        f"Retrieval on {result['corpus']['name']}: recall at 1 of {protocol['num_queries']} queries among "
        f"{protocol['num_candidates']} recordings"
    )
    table = Table(title=title, box=box.SIMPLE)
    baselines = [entry for entry in result["differences"] if "file" not in entry["minus"]]
    kind = result["features"]["kind"]
    headings = "trained" if kind == "model" else kind, *(entry["minus"]["features"]["kind"] for entry in baselines)
    # More columns would not fit into a terminal of 80 characters; the file also has the mean reciprocal ranks.
    for heading in ("query", headings[0], "95 %", *headings[1:]):
        table.add_column(heading, no_wrap=True)
    trained = result["scores"][protocol["split"]]
    others = [entry["scores"] for entry in baselines]
    for condition in dict.fromkeys(name.partition("/")[0] for name in trained):
        name = f"{condition}/recall_at_1"
        low, high = trained[name]["interval"]
        values = [f"{other[name]['subtrahend']:.3f}" for other in others]
        table.add_row(condition, f"{trained[name]['mean']:.3f}", f"{low:.3f}-{high:.3f}", *values)
    table.add_row("guessing", f"{protocol['chance']['recall_at_1']:.3f}")
    return table


def _head_table(result: dict) -> Table:
    table = Table(title=f"{result['preset']} on {result['corpus']['name']}", box=box.SIMPLE)
    for heading in ("test", "value", "95 %", "clips", "songs"):
        table.add_column(heading, no_wrap=True)
    test = result["scores"]["test"]
    rows = [("accuracy", test["accuracy"])] if result["single_label"] else []
    rows += [("neighbour precision", test["neighbour_precision"])] if "neighbour_precision" in test else []
    for metric, name in (("roc_auc", "ROC-AUC"), ("average_precision", "average precision")):
        rows += [(f"{name} {over.replace('_', ' ')}", test[metric][over]) for over in ("over_tags", "over_clips")]
    for name, score in rows:
        if score["mean"] is not None:
            low, high = score["interval"]
            clips = score.get("num_clips", test["num_clips"])
            table.add_row(name, f"{score['mean']:.4f}", f"{low:.4f}-{high:.4f}", str(clips), str(test["num_songs"]))
    return table


if __name__ == "__main__":
    sys.exit(run_command(main))
