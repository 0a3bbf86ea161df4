"""Trains a linear or one-hidden-layer head on features in memory: quick enough to do it hundreds of times."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from clmr_tf.errors import ClmrError
from clmr_tf.evaluation.head_steps import NO_ROW, adam_steps
from clmr_tf.evaluation.protocols import HeadSettings
from clmr_tf.evaluation.ranks import RankedScores
from clmr_tf.head import Head
from clmr_tf.metrics import accuracy
from clmr_tf.plateau import Plateau


@dataclasses.dataclass(frozen=True)
class Fit:
    """A head and how it came about.

    Attributes:
        head: With the weights of the best measurement.
        best_value: What was measured on the validation split with them.
        best_step: Steps that they were trained for.
        num_steps: Steps until training ended.
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
    """Trains a head; the same arguments give the same bits on the same machine.

    Args:
        features: float32 [examples, dimensions].
        labels: Multi-hot, float32 [examples, tags].
        valid_features: float32 [examples of validation, dimensions].
        valid_labels: float32 [examples of validation, tags].
        settings: Everything else.
        single_label: Softmax and cross-entropy over the tags; else the mean over the tags of their binary ones.
        seed: Of the initial weights, the order of the examples and the dropout.

    Raises:
        ClmrError: If its logits are not finite, or the validation split has nothing to be measured by.
    """
    mean, deviation = _statistics(features, settings.standardise)
    generator = np.random.default_rng(seed)
    weights = _initial_weights(generator, features.shape[1], settings.hidden_units, labels.shape[1])
    state = [tf.constant(weight) for weight in weights]
    first, second = ([tf.zeros_like(weight) for weight in state] for _ in range(2))
    inputs, targets = tf.constant((features - mean) / deviation), tf.constant(labels, tf.float32)

    steps_per_epoch = -(-len(features) // settings.batch_size)
    interval = settings.steps_between_measurements or steps_per_epoch
    max_steps = settings.max_epochs * steps_per_epoch or np.inf
    batches = _batches(generator, len(features), settings.batch_size)
    plateau, learning_rate = Plateau(settings.plateau_patience), settings.learning_rate

    head = Head(mean, deviation, weights)
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
        head = Head(mean, deviation, tuple(weight.numpy() for weight in state))
        logits = head.logits(valid_features)
        if not np.isfinite(logits).all():
            raise ClmrError(f"The logits of a head are not finite after {step} steps; check the features.")
        value = _measure(logits, valid_labels, settings.monitor, single_label)
        if not np.isfinite(value):
            raise ClmrError("No tag of the validation split has both positives and negatives to choose a head by.")
        num_since_best += 1
        if value > best_value:
            best_head, best_value, best_step, num_since_best = head, value, step, 0
        if plateau.reached_by(value):
            learning_rate *= settings.plateau_factor
    return Fit(best_head, abs(float(best_value)), best_step, step)


def majority_head(labels: np.ndarray, single_label: bool) -> Head:
    """A head on no features at all, whose probabilities are the shares of the tags among the training examples.

    Args:
        labels: Multi-hot, [examples, tags].
        single_label: As of `fit_head`.
    """
    # Half an example more and less, so that no logarithm is infinite.
    share = (labels.sum(axis=0, dtype=np.float64) + 0.5) / (len(labels) + 1)
    bias = np.log(share) if single_label else np.log(share / (1 - share))
    nothing = np.zeros(0, np.float32)
    return Head(nothing, nothing, (np.zeros((0, len(bias)), np.float32), bias.astype(np.float32)))


def cross_entropy(logits: np.ndarray, labels: np.ndarray, single_label: bool) -> float:
    """The loss of logits against multi-hot labels, both [examples, tags], in float64."""
    logits, labels = logits.astype(np.float64), labels.astype(np.float64)
    if single_label:
        return float(np.mean(np.logaddexp.reduce(logits, axis=1) - np.sum(logits * labels, axis=1)))
    return float(np.mean(np.logaddexp(0, logits) - logits * labels))


def _measure(logits: np.ndarray, labels: np.ndarray, monitor: str, single_label: bool) -> float:
    """What is monitored, so that greater is better."""
    if monitor == "loss":
        return -cross_entropy(logits, labels, single_label)
    if monitor == "accuracy":
        return accuracy(labels.argmax(axis=1), logits)
    return RankedScores(labels, logits).roc_auc()


def _statistics(features: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    if not standardise:
        return np.zeros(features.shape[1], np.float32), np.ones(features.shape[1], np.float32)
    deviation = features.std(axis=0, dtype=np.float64)
    # A feature that never changes stays 0, as with scikit-learn's scaler.
    deviation[deviation == 0] = 1
    return features.mean(axis=0, dtype=np.float64).astype(np.float32), deviation.astype(np.float32)


def _initial_weights(
    generator: np.random.Generator, num_inputs: int, num_hidden: int, num_outputs: int
) -> tuple[np.ndarray, ...]:
    """torch's for a linear layer: matrix and bias uniform within 1/sqrt(inputs)."""
    sizes = [num_inputs, num_hidden, num_outputs] if num_hidden else [num_inputs, num_outputs]
    weights = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        for shape in ((fan_in, fan_out), (fan_out,)):
            weights.append(generator.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(fan_in)))
    return tuple(weights)


def _batches(generator: np.random.Generator, num_examples: int, batch_size: int) -> Iterator[np.ndarray]:
    """Rows of the examples, int32 [batch_size], in a new order every epoch; the last batch of one is filled up."""
    num_missing = -num_examples % batch_size
    while True:
        order = np.pad(generator.permutation(num_examples), (0, num_missing), constant_values=NO_ROW)
        yield from order.astype(np.int32).reshape(-1, batch_size)
