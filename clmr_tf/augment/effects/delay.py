"""Delay: a single echo."""

import tensorflow as tf

from clmr_tf.augment.effect import Augmentation, Parameters, as_audio, as_parameter, has_only_cpus
from clmr_tf.augment.randomness import sample_range
from clmr_tf.config.augmentation import DelayConfig


def delay(audio: tf.Tensor, delay_ms: tf.Tensor, volume: tf.Tensor, sample_rate: int) -> tf.Tensor:
    """Adds a delayed copy and halves the sum: (audio[t] + volume * audio[t - d]) / 2, zeros before the start.

    d = floor(delay_ms * (sample_rate / 1000)) samples, rounded as in torchaudio-augmentations 0.2.4. An echo that
    would start after the end of the clip is dropped; the halving remains.

    Args:
        audio: float32 [batch, samples].
        delay_ms: float32 [batch], >= 0, in milliseconds.
        volume: float32 [batch], amplitude of the copy relative to the original.
        sample_rate: Sample rate in Hz.

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If an argument has another dtype or shape.
    """
    audio = as_audio(audio)
    delay_ms = as_parameter(delay_ms, "delay_ms", audio)
    volume = as_parameter(volume, "volume", audio)
    num_samples = tf.shape(audio)[1]
    # In float64, or a delay of a whole number of samples could be rounded down to one less.
    delay_samples = tf.floor(tf.cast(delay_ms, tf.float64) * (sample_rate / 1000))
    delay_samples = tf.cast(tf.clip_by_value(delay_samples, 0.0, tf.cast(num_samples, tf.float64)), tf.int32)

    if not has_only_cpus():
        source = tf.range(num_samples) - delay_samples[:, tf.newaxis]
        copy = tf.where(source >= 0, tf.gather(audio, tf.maximum(source, 0), batch_dims=1), 0.0)
        return (audio + volume[:, tf.newaxis] * copy) / 2

    def add_copy(example: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        clip, clip_delay_samples, clip_volume = example
        # A slice of fixed length from zeros and clip keeps the shape static, with XLA as well.
        padded = tf.pad(clip, [[num_samples, 0]])
        copy = tf.slice(padded, [num_samples - clip_delay_samples], [num_samples])
        return (clip + clip_volume * copy) / 2

    return tf.map_fn(
        add_copy,
        (audio, delay_samples, volume),
        fn_output_signature=tf.TensorSpec(audio.shape[1:], tf.float32),
    )


class Delay(Augmentation):
    """An echo with a random delay."""

    name = "delay"

    def __init__(self, settings: DelayConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)
        self.delay_ms = settings.delay_ms
        self.volume = settings.volume
        self.sample_rate_hz = sample_rate_hz

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Draws `delay_ms`; `volume` is a setting."""
        delay_ms = sample_range(self.delay_ms, uniforms[:, 0])
        return {"delay_ms": delay_ms, "volume": tf.fill(tf.shape(delay_ms), float(self.volume))}

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `delay`."""
        return delay(audio, parameters["delay_ms"], parameters["volume"], self.sample_rate_hz)
