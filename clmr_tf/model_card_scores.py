"""What a model card says of classifiers on the embedding: the head that was added to it, and what probes scored."""

from typing import Any


def head_section(head: dict[str, Any] | None) -> str:
    """Where the head is from that was trained by a probe and added; nothing for a model without such a head.

    Args:
        head: "head" of the manifest.
    """
    if head is None:
        return ""
    corpus, test = head["corpus"], head["test"]
    labels, protocol = head.get("labels", {}), head.get("protocol", {}).get("head") or {}
    kind = f"one hidden layer of {protocol['hidden_units']}" if protocol.get("hidden_units") else "linear"
    learnt = f"{labels['num_clips']} clips of {labels['num_songs']} songs" if labels else "its train split"
    lines = [
        "## The head of the tags",
        f"Trained on the frozen embedding by `python -m clmr_tf.probe`, preset `{head.get('preset', 'unknown')}`, "
        f"{kind}, seed {head.get('seed', 'unknown')}, with the labels of {learnt} of the corpus {corpus['name']} "
        f"(fingerprint `{corpus['fingerprint']}`)"
        + (f", task {head['task']['name']}" if "task" in head else "")
        + f". On the {test['num_clips']} clips of {test['num_songs']} songs of its test split:",
        "",
        "| metric | score | 95 % |",
        "|---|---|---|",
    ]
    scores = {"accuracy": test.get("accuracy")}
    for metric, words in (("roc_auc", "ROC-AUC"), ("average_precision", "average precision")):
        scores[f"{words} over tags"] = test.get(metric, {}).get("over_tags")
    lines += [
        f"| {name} | {score['mean']:.3f} | {_interval(score['interval'])} |"
        for name, score in scores.items()
        if score and score["mean"] is not None
    ]
    return "\n".join(lines) + "\n"


def scores_section(scores: dict[str, Any]) -> str:
    """What classifiers on the embedding have scored.

    Args:
        scores: Of the manifest.
    """
    if not scores:
        return (
            "## Scores\nNone is recorded yet; `python -m clmr_tf.probe --model FOLDER --corpus NAME` measures one and "
            "writes it here.\n"
        )
    lines = ["## Scores", "Of classifiers on the frozen embedding.", ""]
    lines += ["| corpus and protocol | split | metric | score | 95 % |", "|---|---|---|---|---|"]
    for name, score in sorted(scores.items()):
        value = score.get("score", score.get("mean"))
        interval = _interval(score.get("interval"))
        shown = "" if value is None else f"{value:.3f}"
        lines.append(f"| {name} | {score.get('split', '')} | {score.get('metric', '')} | {shown} | {interval} |")
    return "\n".join(lines) + "\n"


def _interval(low_high: list[float] | None) -> str:
    return f"{low_high[0]:.3f} to {low_high[1]:.3f}" if low_high else ""
