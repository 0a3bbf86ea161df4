"""Training of heads on frozen features."""

import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from clmr_tf.errors import ClmrError
from clmr_tf.metrics import accuracy
from clmr_tf.models.heads import Head, probabilities
from clmr_tf.probe.protocols import LOGISTIC_HEADS, HeadSettings, LogisticSettings
from clmr_tf.probe.scores import RankedScores
from clmr_tf.train.callbacks import Plateau

NO_ROW = -1
"""Row number that pads the last batch of an epoch; it has no weight in the loss."""

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


# When compiled, a step of a linear head takes a tenth of the time of its separate operations.
@tf.function(jit_compile=True, reduce_retracing=False)
def adam_steps(
    weights: list[tf.Tensor],
    first: list[tf.Tensor],
    second: list[tf.Tensor],
    inputs: tf.Tensor,
    targets: tf.Tensor,
    rows: tf.Tensor,
    first_step: tf.Tensor,
    learning_rate: tf.Tensor,
    weight_decay: tf.Tensor,
    keep: tf.Tensor,
    seed: tf.Tensor,
    single_label: bool,
    drops: bool,
) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor]]:
    """Does one step of Adam for each of `rows` [steps, batch]; returns the weights and both moments.

    Dropout keeps each value with probability `keep`, rounded to 1/256.
    """

    def dropped(values: tf.Tensor, step: tf.Tensor, layer: int) -> tf.Tensor:
        if not drops:
            return values
        stream = tf.random.experimental.stateless_fold_in(tf.stack([seed, tf.cast(step, tf.int64)]), layer)
        # One random byte per value: 32 bits for each would take longer than the step itself.
        num_values = values.shape.num_elements()
        words = tf.random.stateless_uniform([-(-num_values // 4)], stream, minval=None, maxval=None, dtype=tf.uint32)
        numbers = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:num_values], values.shape)
        return tf.where(tf.cast(numbers, tf.float32) < 256 * keep, values / keep, 0.0)

    for index in tf.range(tf.shape(rows)[0]):
        step = first_step + index
        row = rows[index]
        weight_of_row = tf.cast(row != NO_ROW, tf.float32)
        weight_of_row /= tf.reduce_sum(weight_of_row)
        x, y = tf.gather(inputs, tf.maximum(row, 0)), tf.gather(targets, tf.maximum(row, 0))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            hidden = dropped(x, step, 0)
            if len(weights) == 4:
                hidden = dropped(tf.nn.relu(hidden @ weights[0] + weights[1]), step, 1)
            logits = hidden @ weights[-2] + weights[-1]
            if single_label:
                losses = tf.nn.softmax_cross_entropy_with_logits(y, logits)
            else:
                losses = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, logits), axis=1)
            loss = tf.reduce_sum(weight_of_row * losses)
        gradients = tape.gradient(loss, weights)
        gradients = [gradient + weight_decay * weight for gradient, weight in zip(gradients, weights, strict=True)]
        first = [_BETA_1 * old + (1 - _BETA_1) * new for old, new in zip(first, gradients, strict=True)]
        second = [_BETA_2 * old + (1 - _BETA_2) * new * new for old, new in zip(second, gradients, strict=True)]
        count = tf.cast(step + 1, tf.float32)
        rate, correction = learning_rate / (1 - _BETA_1**count), tf.sqrt(1 - _BETA_2**count)
        weights = [
            weight - rate * mean / (tf.sqrt(square) / correction + _EPSILON)
            for weight, mean, square in zip(weights, first, second, strict=True)
        ]
    return weights, first, second


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained head.

    Attributes:
        head: The head with the best weights by the validation metric.
        best_value: Their validation metric.
        best_step: Number of steps that they were trained for.
        num_steps: Number of steps until training ended.
    """

    head: Head
    best_value: float
    best_step: int
    num_steps: int


def fit_head(
    features: np.ndarray,
    labels: np.ndarray,
    valid_features: np.ndarray,
    valid_labels: np.ndarray,
    settings: HeadSettings,
    *,
    single_label: bool,
    seed: int,
) -> Fit:
    """Trains a head; bit-identical for the same arguments on the same machine.

    Args:
        features: float32 [examples, dimensions].
        labels: Multi-hot, float32 [examples, tags].
        valid_features: float32 [validation examples, dimensions].
        valid_labels: float32 [validation examples, tags].
        settings: Hyperparameters.
        single_label: Softmax cross-entropy over the tags; else the mean binary cross-entropy of the tags.
        seed: Seed of the initial weights, the order of the examples and the dropout.

    Raises:
        ClmrError: If the logits become infinite or NaN, or no tag of the validation split can be scored.
    """
    mean, standard_deviation = _statistics(features, settings.standardise)
    generator = np.random.default_rng(seed)
    weights = _initial_weights(generator, features.shape[1], settings.hidden_units, labels.shape[1])
    state = [tf.constant(weight) for weight in weights]
    first, second = ([tf.zeros_like(weight) for weight in state] for _ in range(2))
    inputs, targets = tf.constant((features - mean) / standard_deviation), tf.constant(labels, tf.float32)

    steps_per_epoch = -(-len(features) // settings.batch_size)
    interval = settings.steps_between_measurements or steps_per_epoch
    max_steps = settings.max_epochs * steps_per_epoch or np.inf
    batches = _batches(generator, len(features), settings.batch_size)
    plateau, learning_rate = Plateau(settings.plateau_patience), settings.learning_rate

    head = Head(mean, standard_deviation, weights)
    best_head, best_value, best_step, num_since_best, step = head, -np.inf, 0, 0, 0
    while num_since_best < settings.patience and step < max_steps:
        rows = np.stack([next(batches) for _ in range(interval)])
        state, first, second = adam_steps(
            state,
            first,
            second,
            inputs,
            targets,
            tf.constant(rows),
            tf.constant(step),
            tf.constant(learning_rate, tf.float32),
            tf.constant(settings.weight_decay, tf.float32),
            tf.constant(1 - settings.dropout, tf.float32),
            tf.constant(seed, tf.int64),
            single_label=single_label,
            drops=settings.dropout > 0,
        )
        step += interval
        head = Head(mean, standard_deviation, tuple(weight.numpy() for weight in state))
        logits = head.logits(valid_features)
        if not np.isfinite(logits).all():
            raise ClmrError(f"The logits of a head are not finite after {step} steps; check the features.")
        value = _measure(logits, valid_labels, settings.monitor, single_label)
        if not np.isfinite(value):
            raise ClmrError(
                "No tag of the validation split has both positives and negatives, so no head can be selected; prepare "
                "a corpus whose validation split has some."
            )
        num_since_best += 1
        if value > best_value:
            best_head, best_value, best_step, num_since_best = head, value, step, 0
        if plateau.update(value):
            learning_rate *= settings.plateau_factor
    return Fit(best_head, abs(float(best_value)), best_step, step)


_MAX_NUM_STEPS = 1000
# float32 products leave a relative error of about 1e-8 in the loss.
_LOSS_TOLERANCE, _GRADIENT_TOLERANCE = 1e-9, 1e-6


def fit_logistic_head(
    features: np.ndarray,
    labels: np.ndarray,
    valid_features: np.ndarray,
    valid_labels: np.ndarray,
    heads: Sequence[LogisticSettings] = LOGISTIC_HEADS,
    *,
    single_label: bool,
    on_fit: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Fit, LogisticSettings, list[dict[str, Any]]]:
    """Fits logistic regressions to their optimum and selects the one with the lowest loss on the validation split.

    The optimum is unique up to rounding, so no seed is involved. All tags are fitted at once (L-BFGS), which takes a
    fraction of the time of one classifier per tag. A tag without positives among the examples keeps about the bias of
    `majority_head`.

    Args:
        features: float32 [examples, dimensions].
        labels: Multi-hot, float32 [examples, tags].
        valid_features: float32 [validation examples, dimensions].
        valid_labels: float32 [validation examples, tags].
        heads: Settings to select from, in descending order of `l2`; by default those of the preset "standard". If
            losses are equal, the first is selected. After one with a higher loss than the best so far, the others are
            not fitted: they take most of the steps, and fit the train split still closer.
        single_label: Softmax cross-entropy over the tags; else the sum of the binary cross-entropies of the tags. The
            loss on the validation split is the mean over the tags instead, as for `fit_head`.
        on_fit: Called with the number of finished fits and the total.

    Returns:
        The best fit, its settings, and a record of each fit, if it was made: {"settings", "valid", "num_steps"}.

    Raises:
        ClmrError: If features are infinite or NaN.
    """
    if not (np.isfinite(features).all() and np.isfinite(valid_features).all()):
        raise ClmrError("Features contain NaN or infinity, so no head can be fitted to them; check the encoder.")
    # Like scikit-learn, scipy is imported late.
    from scipy.optimize import minimize

    mean, standard_deviation = _statistics(features, standardise=True)
    inputs, targets = (features - mean) / standard_deviation, labels.astype(np.float64)
    # As a copy, because a product with the view takes twice to four times as long.
    transposed = np.ascontiguousarray(inputs.T)
    num_dimensions, num_tags = features.shape[1], labels.shape[1]
    scale = 1 if single_label else num_tags
    # Along principal components, the curvature is about p (1 - p) times the variance, plus the penalty. L-BFGS needs a
    # fraction of the steps when the coordinates are scaled so that it is 1.
    variances, components = np.linalg.eigh((transposed @ inputs).astype(np.float64) / len(inputs))
    majority = majority_head(labels, single_label).weights[-1].astype(np.float64)
    frequencies = probabilities(majority[None], single_label)

    def loss_and_gradient(flat: np.ndarray, scales: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
        coordinates, bias = flat[:-num_tags].reshape(num_dimensions, num_tags) * scales, flat[-num_tags:]
        logits = (inputs @ (components @ coordinates).astype(np.float32)).astype(np.float64) + bias
        loss, predicted = _loss_and_probabilities(logits, targets, single_label)
        errors = (predicted - targets) / len(inputs)
        gradient = components.T @ (transposed @ errors.astype(np.float32)) + l2 * coordinates
        loss = scale * loss + l2 / 2 * np.sum(coordinates**2)
        return loss, np.concatenate([(scales * gradient).ravel(), errors.sum(axis=0)])

    coordinates, bias = np.zeros((num_dimensions, num_tags)), majority
    options = {"maxiter": _MAX_NUM_STEPS, "ftol": _LOSS_TOLERANCE, "gtol": _GRADIENT_TOLERANCE}
    best, chosen, records = None, heads[0], []
    for number, settings in enumerate(heads, 1):
        scales = 1 / np.sqrt(np.maximum(variances, 0)[:, None] * frequencies * (1 - frequencies) + settings.l2)
        flat = np.concatenate([(coordinates / scales).ravel(), bias])
        found = minimize(loss_and_gradient, flat, (scales, settings.l2), "L-BFGS-B", jac=True, options=options)
        coordinates, bias = found.x[:-num_tags].reshape(num_dimensions, num_tags) * scales, found.x[-num_tags:]
        num_steps = int(found.nit)
        matrix = (components @ coordinates).astype(np.float32)
        head = Head(mean, standard_deviation, (matrix, bias.astype(np.float32)))
        value = cross_entropy(head.logits(valid_features), valid_labels, single_label)
        records.append({"settings": dataclasses.asdict(settings), "valid": value, "num_steps": num_steps})
        is_worse = best is not None and value > best.best_value
        if best is None or value < best.best_value:
            best, chosen = Fit(head, value, num_steps, num_steps), settings
        on_fit(len(heads) if is_worse else number, len(heads))
        if is_worse:
            break
    return best, chosen, records


def majority_head(labels: np.ndarray, single_label: bool) -> Head:
    """A head without inputs, whose probabilities are the frequencies of the tags among the training examples.

    Args:
        labels: Multi-hot, [examples, tags].
        single_label: As in `fit_head`.
    """
    # Half an example is added to positives and negatives, so no logarithm is infinite.
    frequency = (labels.sum(axis=0, dtype=np.float64) + 0.5) / (len(labels) + 1)
    bias = np.log(frequency) if single_label else np.log(frequency / (1 - frequency))
    empty = np.zeros(0, np.float32)
    return Head(empty, empty, (np.zeros((0, len(bias)), np.float32), bias.astype(np.float32)))


def cross_entropy(logits: np.ndarray, labels: np.ndarray, single_label: bool) -> float:
    """Loss of logits for multi-hot labels, both [examples, tags], computed in float64."""
    return _loss_and_probabilities(logits.astype(np.float64), labels.astype(np.float64), single_label)[0]


def _loss_and_probabilities(logits: np.ndarray, labels: np.ndarray, single_label: bool) -> tuple[float, np.ndarray]:
    """Both at once, because they share the exponentials that take most of the time."""
    labelled = np.sum(logits * labels) / len(logits)
    if single_label:
        largest = logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits - largest)
        sums = exponentials.sum(axis=1, keepdims=True)
        return float(np.mean(np.log(sums) + largest) - labelled), exponentials / sums
    exponentials = np.exp(-np.abs(logits))
    loss = np.mean(np.maximum(logits, 0) + np.log1p(exponentials)) - labelled / logits.shape[1]
    return float(loss), np.where(logits >= 0, 1, exponentials) / (1 + exponentials)


def _measure(logits: np.ndarray, labels: np.ndarray, monitor: str, single_label: bool) -> float:
    """The monitored metric; the loss is negated, so that higher is always better."""
    if monitor == "loss":
        return -cross_entropy(logits, labels, single_label)
    if monitor == "accuracy":
        return accuracy(labels.argmax(axis=1), logits)
    return RankedScores(labels, logits).macro()[0]


def _statistics(features: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    if not standardise:
        return np.zeros(features.shape[1], np.float32), np.ones(features.shape[1], np.float32)
    standard_deviation = features.std(axis=0, dtype=np.float64)
    # A constant feature becomes 0, as with scikit-learn's StandardScaler.
    standard_deviation[standard_deviation == 0] = 1
    return features.mean(axis=0, dtype=np.float64).astype(np.float32), standard_deviation.astype(np.float32)


def _initial_weights(
    generator: np.random.Generator, num_inputs: int, num_hidden: int, num_outputs: int
) -> tuple[np.ndarray, ...]:
    """Initial weights as in torch's linear layers: matrix and bias are uniform within 1/sqrt(inputs)."""
    sizes = [num_inputs, num_hidden, num_outputs] if num_hidden else [num_inputs, num_outputs]
    weights = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        for shape in ((fan_in, fan_out), (fan_out,)):
            weights.append(generator.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(fan_in)))
    return tuple(weights)


def _batches(generator: np.random.Generator, num_examples: int, batch_size: int) -> Iterator[np.ndarray]:
    """Endless batches of row numbers, int32 [batch_size], in a new order every epoch; NO_ROW pads the last one."""
    num_missing = -num_examples % batch_size
    while True:
        order = np.pad(generator.permutation(num_examples), (0, num_missing), constant_values=NO_ROW)
        yield from order.astype(np.int32).reshape(-1, batch_size)


_LOG = logging.getLogger(__name__)


def search(
    heads: Sequence[HeadSettings],
    fit: Callable[[HeadSettings], Fit],
    journal: Path,
    key: dict[str, Any],
    on_run: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Fit, HeadSettings, list[dict[str, Any]]]:
    """Fits all heads that are not in the journal yet, then fits the best one again to get its weights.

    Fitting is deterministic, so the second fit gives the same head, and an interrupted search gives the same result as
    an uninterrupted one.

    Args:
        heads: Hyperparameters to try; the monitored metric must be one where higher is better.
        fit: Trains one head.
        journal: File of the finished runs, one JSON object per line.
        key: Everything else that determines the runs: features, labels, seed. A journal with another key is
            overwritten.
        on_run: Called with the number of finished runs and the total.

    Returns:
        The best fit, its settings, and a record of every run in the order of `heads`: {"settings", "valid",
        "best_step", "num_steps"}. If several heads are equally good, the first is returned.
    """
    # In the form in which it will be read back, with lists instead of tuples.
    key = json.loads(json.dumps(key))
    done = _read(journal, key)
    if done is None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")
        done = {}
    records = []
    for index, settings in enumerate(heads):
        plain = dataclasses.asdict(settings)
        name = json.dumps(plain, sort_keys=True)
        if name not in done:
            result = fit(settings)
            done[name] = {
                "settings": plain,
                "valid": result.best_value,
                "best_step": result.best_step,
                "num_steps": result.num_steps,
            }
            _append(journal, done[name])
        records.append(done[name])
        on_run(index + 1, len(heads))
    best = max(range(len(heads)), key=lambda index: records[index]["valid"])
    result = fit(heads[best])
    if result.best_value != records[best]["valid"]:
        _LOG.warning(
            "The best head scored %.6f on the validation split in the search, and %.6f when it was fitted again; the "
            "journal %s comes from another machine or another version.",
            records[best]["valid"],
            result.best_value,
            journal,
        )
    return result, heads[best], records


def _append(journal: Path, record: dict[str, Any]) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(journal: Path, key: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The runs of a journal by their settings; None if there is no journal or its key differs."""
    if not journal.is_file():
        return None
    text = journal.read_text(encoding="utf-8")
    whole, _, incomplete = text.rpartition("\n")
    if incomplete:
        # The process was killed in the middle of this line; the next record must not be appended to it.
        with journal.open("r+", encoding="utf-8") as file:
            file.truncate(len(text.encode("utf-8")) - len(incomplete.encode("utf-8")))
    if not whole:
        return None
    try:
        head, *records = [json.loads(line) for line in whole.splitlines()]
        if head["key"] != key:
            return None
        return {json.dumps(record["settings"], sort_keys=True): record for record in records}
    except (ValueError, KeyError, TypeError) as error:
        _LOG.warning("The journal %s is damaged (%s); its runs are repeated.", journal, error)
        return None
