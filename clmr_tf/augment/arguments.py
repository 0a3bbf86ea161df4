"""What every augmentation checks before the graph is built: one sentence instead of a wrong broadcast."""

import tensorflow as tf

from clmr_tf.errors import UsageError


def as_audio(audio: tf.Tensor) -> tf.Tensor:
    """Returns `audio` as a float32 tensor [batch, samples].

    Raises:
        UsageError: If it is of another type or rank, or known to hold nothing.
    """
    audio = _as_float(audio, "audio", ("batch", "samples"))
    if 0 in audio.shape.as_list():
        raise UsageError(
            f"audio must hold at least one clip of at least one sample; received {audio.shape}, leave it out."
        )
    return audio


def as_parameter(values: tf.Tensor, name: str, audio: tf.Tensor) -> tf.Tensor:
    """Returns `values` as float32 [batch], one for each row of `audio` [batch, samples].

    Raises:
        UsageError: If it is of another type or rank, or known to be of another length.
    """
    values = _as_float(values, name, ("batch",))
    check_batch(values, name, audio)
    return values


def as_seeds(seeds: tf.Tensor) -> tf.Tensor:
    """Returns `seeds` as an int32 tensor [batch, 2].

    Raises:
        UsageError: If it is of another type or shape.
    """
    seeds = tf.convert_to_tensor(seeds)
    if seeds.dtype != tf.int32 or not seeds.shape.is_compatible_with([None, 2]):
        raise UsageError(f"seeds must be int32 [batch, 2], a pair per view; received {seeds.dtype.name} {seeds.shape}.")
    return seeds


def as_augmented(augmented: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Returns `augmented` as a bool tensor [batch], one for each pair of `seeds` [batch, 2].

    Raises:
        UsageError: If it is of another type or rank, or known to be of another length.
    """
    augmented = tf.convert_to_tensor(augmented)
    if augmented.dtype != tf.bool or not augmented.shape.is_compatible_with([None]):
        raise UsageError(
            "augmented must be bool [batch], True for each view that is more than its crop; "
            f"received {augmented.dtype.name} {augmented.shape}."
        )
    check_batch(augmented, "augmented", seeds)
    return augmented


def check_batch(values: tf.Tensor, name: str, audio: tf.Tensor) -> None:
    """Raises UsageError if `values` is known to have another number of rows than `audio`."""
    if not values.shape[:1].is_compatible_with(audio.shape[:1]):
        raise UsageError(
            f"{name} must have one row for each of the {audio.shape[0]} clips; received {values.shape[0]}."
        )


def static_num_samples(audio: tf.Tensor) -> int:
    """The length of the clips in `audio` [batch, samples], for transforms whose length the graph must know.

    Raises:
        UsageError: If it is not known when the graph is built.
    """
    if audio.shape[1] is None:
        raise UsageError("audio must have a length that is known when the graph is built; received [batch, None].")
    return audio.shape[1]


def _as_float(values: tf.Tensor, name: str, axes: tuple[str, ...]) -> tf.Tensor:
    if not tf.is_tensor(values):
        values = tf.convert_to_tensor(values, tf.float32)
    if values.dtype != tf.float32 or not values.shape.is_compatible_with([None] * len(axes)):
        raise UsageError(f"{name} must be float32 [{', '.join(axes)}]; received {values.dtype.name} {values.shape}.")
    return values
