"""Tables of the comparison of encoders: from the files of scores to JSON data and Markdown."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import write_atomically
from clmr_tf.probe.comparison import PAIRED, scores_of
from clmr_tf.probe.scores import Score
from clmr_tf.report.page import markdown_table

PLAN_FILE, TABLE_FILE = "plan.json", "table.json"
SCORES, TRAININGS = "scores", "trainings"
RETRIEVAL = "retrieval"
_RECIPROCAL_RANK = "retrieval-mrr"
_RETRIEVAL_METRICS = {
    RETRIEVAL: "chain/recall_at_1",
    "retrieval-clean": "clean/recall_at_1",
    _RECIPROCAL_RANK: "chain/mean_reciprocal_rank",
}
METRIC_NAMES = {
    "average_precision": "PR-AUC",
    "accuracy": "accuracy",
    "chain/recall_at_1": "recall at 1",
    "clean/recall_at_1": "recall at 1, clean",
    "chain/mean_reciprocal_rank": "mean reciprocal rank",
}
TRAININGS_IN_WORDS = {
    "untrained": "untrained",
    "clmr": "CLMR",
    "supervised": "supervised",
    "mel": "mel statistics",
    "musicnn": "musicnn features",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """What gives features or tags.

    Attributes:
        training: "clmr", "supervised" or "untrained"; or "mel" or "musicnn", features that are no encoder's.
        encoder: Its name; None for features that are no encoder's.
        seed: Of the training, and with few labels of their choice; 1 without a training.
        step: Of an earlier checkpoint; None for the last, with labels the best.
        column: The labels that it was trained with.
        labels: Fraction of the songs whose labels it was trained with.
    """

    training: str
    encoder: str | None = None
    seed: int = 1
    step: int | None = None
    column: str | None = None
    labels: float = 1.0

    @property
    def name(self) -> str:
        """Names its run, its model and its scores."""
        parts = [self.encoder, self.training, self.column, f"{self.labels:g}" if self.column else None]
        parts += [str(self.seed)] if self.training in ("clmr", "supervised") else []
        parts += [f"step-{self.step}"] if self.step is not None else []
        return "-".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One result of a probe.

    Attributes:
        network: What is scored.
        column: What it is scored on, see `benchmarks.encoder_comparison.Column`.
        labels: Fraction of the labelled songs that the head, or the network itself, learns from.
        draw: Seed of their choice.
    """

    network: Network
    column: str
    labels: float = 1.0
    draw: int = 1

    @property
    def file(self) -> str:
        """Its file in the folder of scores."""
        return f"{self.network.name}/{self.column}-labels-{self.labels:g}-draw-{self.draw}.json"

    @property
    def drawn(self) -> int:
        """Which songs have labels; 0 if all do."""
        if self.labels == 1:
            return 0
        return self.network.seed if self.network.training == "supervised" else self.draw


@dataclasses.dataclass(frozen=True)
class _Scored:
    """An evaluation and one of its scores; retrieval has several, each as a column of its own."""

    evaluation: Evaluation
    column: str
    metric: str
    score: Score
    examples: str

    @property
    def encoder(self) -> str | None:
        return self.evaluation.network.encoder

    @property
    def training(self) -> str:
        return self.evaluation.network.training


_Key = tuple[str | None, str, str, float]
"""Encoder, training, column and fraction of the labels."""


def table_of(results: Path) -> dict[str, Any]:
    """The tables of a results folder, also of an unfinished one, as JSON data.

    Scores are means over the seeds of trainings and the draws of labelled songs, "range" is the lowest and the highest
    of them, and "interval" is the 95 % interval over songs (recordings) of the mean. Differences are paired: same
    songs, same draw, and for two trainings the same seed.

    Raises:
        UsageError: If the folder has no plan.
        ClmrError: If a file is not what it should be.
    """
    plan = read_plan(results)
    trainings = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / TRAININGS).glob("*.json"))]
    scored = [one for path in sorted((results / SCORES).glob("*/*.json")) for one in _read(path)]
    found = list(dict.fromkeys(training["network"]["encoder"] for training in trainings))
    # In the order in which lengths were measured, which is that of the command line.
    planned = [key.split()[0] for key in plan["trainings"]]
    encoders = [name for name in dict.fromkeys(planned) if name in found]
    final = [one for one in scored if one.evaluation.network.step is None]
    complete = [one for one in final if one.evaluation.labels == 1]
    columns = {one.column: one.metric for one in sorted(complete, key=_column_order)}
    groups = _grouped(final)
    kinds = [(name, training) for name in encoders for training in ("untrained", "clmr", "supervised")]
    kinds += [(None, "mel"), (None, "musicnn")]
    return {
        **{name: plan[name] for name in ("settings", "num_cpus")},
        "plan": plan["trainings"],
        "columns": columns,
        "rows": [
            {
                "encoder": encoder,
                "training": training,
                **_compute(encoder, training, trainings),
                "scores": {
                    column: _mean(of) for column in columns if (of := groups.get((encoder, training, column, 1.0)))
                },
            }
            for encoder, training in kinds
            if any((one.encoder, one.training) == (encoder, training) for one in complete)
        ],
        "differences": _differences(groups, encoders, list(columns)),
        "few_labels": _few_labels(groups, kinds),
        "curves": _curves(scored, trainings, encoders),
    }


def read_plan(results: Path) -> dict[str, Any]:
    """The settings and the lengths of the trainings; UsageError if there are none."""
    path = results / PLAN_FILE
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        _ = plan["settings"], plan["trainings"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"{results} holds no comparison of encoders, because {path} cannot be read; start one with "
            "python -m benchmarks.encoders --minutes, or give --results another folder."
        ) from error
    return plan


def write_tables(results: Path) -> dict[str, Any]:
    """Writes the tables of what is finished, as JSON and as Markdown, and returns them as JSON data."""
    table = table_of(results)
    write_atomically(results / TABLE_FILE, json.dumps(table, indent=2) + "\n")
    write_atomically((results / TABLE_FILE).with_suffix(".md"), markdown(table))
    return table


def _read(path: Path) -> Iterable[_Scored]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        evaluation = Evaluation(**{**content["evaluation"], "network": Network(**content["evaluation"]["network"])})
        result = content["result"]
        scores, examples = scores_of(result), result[PAIRED]["examples"]
        if evaluation.column != RETRIEVAL:
            metric = "accuracy" if result["single_label"] else "average_precision"
            return [_Scored(evaluation, evaluation.column, metric, scores[metric], examples)]
        return [
            _Scored(evaluation, column, metric, scores[metric], examples)
            for column, metric in _RETRIEVAL_METRICS.items()
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ClmrError(f"{path} is not a result of this benchmark ({error}); remove it, and start again.") from error


def _column_order(one: _Scored) -> tuple[int, str]:
    """The labels that networks are trained with come first, retrieval last."""
    first = {"pseudo-tags": 0}.get(one.column, 2 if one.metric == "accuracy" else 1)
    return 3 if one.column.startswith(RETRIEVAL) else first, one.column


def _grouped(scored: Iterable[_Scored]) -> dict[_Key, list[_Scored]]:
    groups: dict[_Key, list[_Scored]] = {}
    for one in scored:
        groups.setdefault((one.encoder, one.training, one.column, one.evaluation.labels), []).append(one)
    return groups


def _mean(scored: Sequence[_Scored]) -> dict[str, Any]:
    return _summary([one.score for one in scored])


def _summary(scores: Sequence[Score]) -> dict[str, Any]:
    scorable = [score for score in scores if score.value is not None]
    if not scorable:
        return {"mean": None, "interval": None, "range": None, "num_results": len(scores)}
    values = [score.value for score in scorable]
    return {**Score.mean(scorable).to_json(), "range": [min(values), max(values)], "num_results": len(scores)}


def _compute(encoder: str | None, training: str, trainings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Minutes and steps of the trainings of a row, lowest and highest, and the work of a view."""
    of_encoder = [one for one in trainings if one["network"]["encoder"] == encoder]
    if not of_encoder:
        return {}
    work = {name: of_encoder[0][name] for name in ("gflop_per_view", "num_weights")}
    own = [
        one
        for one in of_encoder
        if one["network"]["training"] == training and one["network"]["step"] is None and one["network"]["labels"] == 1
    ]
    ranges = {
        name: [min(one[name] for one in own), max(one[name] for one in own)] for name in ("minutes", "steps") if own
    }
    return {**work, **ranges}


def _differences(
    groups: dict[_Key, list[_Scored]], encoders: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    pairs: list[tuple[tuple[str | None, str], tuple[str | None, str]]] = []
    for encoder in encoders:
        pairs += [((encoder, "clmr"), (encoder, "untrained")), ((encoder, "clmr"), (encoder, "supervised"))]
        pairs += [((encoder, "clmr"), (None, other)) for other in ("mel", "musicnn")]
    pairs += [((one, "clmr"), (other, "clmr")) for other, one in itertools.combinations(encoders, 2)]
    fractions = sorted({labels for *_, labels in groups}, reverse=True)
    rows = []
    for (minuend, subtrahend), labels, column in itertools.product(pairs, fractions, columns):
        ours, theirs = (groups.get((*kind, column, labels), []) for kind in (minuend, subtrahend))
        differences = [_subtract(a, b) for a in ours for b in theirs if _belong_together(a, b)]
        if differences:
            names = {
                which: {"encoder": kind[0], "training": kind[1]}
                for which, kind in (("minuend", minuend), ("subtrahend", subtrahend))
            }
            rows.append({**names, "column": column, "labels": labels, **_summary(differences)})
    return rows


def _belong_together(one: _Scored, other: _Scored) -> bool:
    seeds_match = (
        "clmr" != other.training != "supervised" or one.evaluation.network.seed == other.evaluation.network.seed
    )
    return seeds_match and one.evaluation.drawn == other.evaluation.drawn


def _subtract(one: _Scored, other: _Scored) -> Score:
    if one.examples != other.examples:
        raise ClmrError(
            f"{one.evaluation.file} and {other.evaluation.file} are about other recordings or labels; remove the "
            "scores that are older than the corpus, and start again."
        )
    return one.score - other.score


def _few_labels(groups: dict[_Key, list[_Scored]], kinds: Sequence[tuple[str | None, str]]) -> list[dict[str, Any]]:
    """Curves over the fraction of the labels, of the columns that have fewer than all."""
    fractions: dict[str, set[float]] = {}
    for _, _, column, labels in groups:
        fractions.setdefault(column, set()).add(labels)
    rows = []
    for column, found in sorted(fractions.items(), key=lambda pair: (pair[0] != "pseudo-tags", pair[0])):
        for kind, labels in itertools.product(kinds, sorted(found)):
            if len(found) > 1 and (of := groups.get((*kind, column, labels))):
                row = {"encoder": kind[0], "training": kind[1], "column": column, "labels": labels}
                rows.append({**row, **_mean(of)})
    return rows


def _curves(
    scored: Sequence[_Scored], trainings: Sequence[dict[str, Any]], encoders: Sequence[str]
) -> list[dict[str, Any]]:
    """Scores of seed 1 over the time of training, of the columns that earlier checkpoints are scored on."""
    of = {Network(**training["network"]).name: training for training in trainings}
    columns = [one.column for one in sorted(scored, key=_column_order) if one.evaluation.network.step is not None]
    groups, rows = _grouped(scored), []
    for encoder, column in itertools.product(encoders, dict.fromkeys(columns)):
        points = []
        for training in ("untrained", "clmr"):
            for one in groups.get((encoder, training, column, 1.0), []):
                network = one.evaluation.network
                record = {"steps": 0, "minutes": 0.0} if training == "untrained" else of.get(network.name)
                if network.seed == 1 and record is not None:
                    point = {"steps": record["steps"], "minutes": record["minutes"], **one.score.to_json()}
                    points.append({"encoder": encoder, "column": column, **point})
        rows += sorted(points, key=lambda point: point["steps"])
    return rows


def markdown(table: dict[str, Any]) -> str:
    """The tables as Markdown."""
    settings = table["settings"]
    precisions = {name: planned["precision"] for name, planned in table["plan"].items()}
    lines = [
        f"Every encoder was trained for {settings['minutes']:g} minutes on {table['num_cpus']} CPU cores with "
        f"{settings['corpus']}: width {settings['width']:g}, batches of {settings['batch_size']}, "
        f"{_listed(precisions)}. Minutes are those of the steps alone, at the speed that was measured before. Scores "
        "are means over seeds and draws, with the 95 % interval over songs in brackets. Differences are paired; the "
        "lowest and the highest follow if there are several seeds or draws.",
        "",
    ]
    # The mean reciprocal rank tells the same as the recall, and the table is wide.
    columns = {name: metric for name, metric in table["columns"].items() if name != _RECIPROCAL_RANK}
    headings = ["encoder", "training", "minutes", "steps", "GFLOP a view", *map(_heading(columns), columns)]
    lines += markdown_table(headings, map(_row(columns), table["rows"]))
    lines += _difference_lines(table["differences"], columns)
    few = table["few_labels"]
    for column in dict.fromkeys(row["column"] for row in few):
        fractions = sorted({row["labels"] for row in few if row["column"] == column})
        lines += ["", f"{_heading(columns)(column)}, by fraction of the labelled songs:", ""]
        headings = ["encoder", "training", *(f"{100 * fraction:g} %" for fraction in fractions)]
        lines += markdown_table(headings, _label_rows([row for row in few if row["column"] == column], fractions))
    for column in dict.fromkeys(row["column"] for row in table["curves"] if row["column"] in columns):
        lines += ["", f"{_heading(columns)(column)} over the time of training, seed 1:", ""]
        points = [row for row in table["curves"] if row["column"] == column]
        cells = [[point["encoder"], f"{point['minutes']:.1f}", str(point["steps"]), _cell(point)] for point in points]
        lines += markdown_table(["encoder", "minutes", "steps", "score"], cells)
    return "\n".join(lines) + "\n"


def _listed(precisions: dict[str, str]) -> str:
    """The precision, or those of all trainings if they differ."""
    if len(set(precisions.values())) == 1:
        return next(iter(precisions.values()))
    parts = [
        f"{precision} ({', '.join(name for name in precisions if precisions[name] == precision)})"
        for precision in dict.fromkeys(precisions.values())
    ]
    return "the faster precision of each training, " + " or ".join(parts)


def _heading(columns: dict[str, str]) -> Callable[[str], str]:
    return lambda column: f"{column}: {METRIC_NAMES[columns[column]]}" if column in columns else column


def _row(columns: dict[str, str]) -> Callable[[dict[str, Any]], list[str]]:
    def cells(row: dict[str, Any]) -> list[str]:
        minutes = _range(row["minutes"], ".1f") if "minutes" in row else ""
        steps = _range(row["steps"], "d") if "steps" in row else ""
        work = f"{row['gflop_per_view']:.2f}" if "gflop_per_view" in row else ""
        scores = [_cell(row["scores"][column]) if column in row["scores"] else "" for column in columns]
        return [row["encoder"] or "", TRAININGS_IN_WORDS[row["training"]], minutes, steps, work, *scores]

    return cells


def _difference_lines(differences: Sequence[dict[str, Any]], columns: Iterable[str]) -> list[str]:
    """One table with all labels, and one with fewer; the second leaves out other encoders and other features."""
    complete = [row for row in differences if row["labels"] == 1]
    fewer = [
        row for row in differences if row["labels"] < 1 and row["minuend"]["encoder"] == row["subtrahend"]["encoder"]
    ]
    lines = []
    for title, rows in (("all labels", complete), ("fewer labels", fewer)):
        shown = [column for column in columns if any(row["column"] == column for row in rows)]
        table: dict[tuple[str, float], dict[str, Any]] = {}
        for row in rows:
            name = " - ".join(_name(row[which]) for which in ("minuend", "subtrahend"))
            table.setdefault((name, row["labels"]), {})[row["column"]] = row
        if table:
            lines += ["", f"Differences with {title}:", ""]
            cells = [
                [name, f"{100 * labels:g} %", *(_difference(found.get(column)) for column in shown)]
                for (name, labels), found in table.items()
            ]
            lines += markdown_table(["difference", "labels", *shown], cells)
    return lines


def _difference(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    several = f" {_range(row['range'], '+.3f')}" if row["num_results"] > 1 and row["mean"] is not None else ""
    return _cell(row, "+.3f") + several


def _name(kind: dict[str, Any]) -> str:
    return " ".join(filter(None, [kind["encoder"], TRAININGS_IN_WORDS[kind["training"]]]))


def _label_rows(rows: Sequence[dict[str, Any]], fractions: Sequence[float]) -> list[list[str]]:
    cells: dict[tuple[str | None, str], dict[float, str]] = {}
    for row in rows:
        cells.setdefault((row["encoder"], row["training"]), {})[row["labels"]] = _cell(row)
    return [
        [encoder or "", TRAININGS_IN_WORDS[training], *(found.get(fraction, "") for fraction in fractions)]
        for (encoder, training), found in cells.items()
    ]


def _cell(entry: dict[str, Any], form: str = ".3f") -> str:
    if entry["mean"] is None or entry["interval"] is None:
        return ""
    low, high = entry["interval"]
    return f"{entry['mean']:{form}} [{low:{form}}, {high:{form}}]"


def _range(bounds: Sequence[float], form: str) -> str:
    low, high = (f"{bound:{form}}" for bound in bounds)
    return low if low == high else f"{low} to {high}"
