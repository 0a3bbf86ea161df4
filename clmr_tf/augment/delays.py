"""The delay effect: one echo."""

import tensorflow as tf

from clmr_tf.augment.augmentation import Augmentation, Parameters, as_audio, as_parameter, choose, is_cpu_alone
from clmr_tf.config.augmentation import DelayConfig


def delay(audio: tf.Tensor, delay_ms: tf.Tensor, volume: tf.Tensor, sample_rate: int) -> tf.Tensor:
    """Adds a delayed copy and halves the sum: (audio[t] + volume * audio[t - d]) / 2, zeros before the start.

    d = floor(delay_ms * (sample_rate / 1000)) samples, as torchaudio-augmentations 0.2.4 rounds it. An echo
    that would begin after the end of the clip is not heard; the halving remains.

    Args:
        audio: float32 [batch, samples].
        delay_ms: float32 [batch], >= 0, in milliseconds.
        volume: float32 [batch], level of the copy; 1 is that of the original.
        sample_rate: In Hz.

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If an argument is of another type or shape.
    """
    audio = as_audio(audio)
    delay_ms = as_parameter(delay_ms, "delay_ms", audio)
    volume = as_parameter(volume, "volume", audio)
    num_samples = tf.shape(audio)[1]
    # In float64, or a delay of a whole number of samples could be rounded down to one less.
    offset = tf.floor(tf.cast(delay_ms, tf.float64) * (sample_rate / 1000))
    offset = tf.cast(tf.clip_by_value(offset, 0.0, tf.cast(num_samples, tf.float64)), tf.int32)

    if not is_cpu_alone():
        source = tf.range(num_samples) - offset[:, tf.newaxis]
        copy = tf.where(source >= 0, tf.gather(audio, tf.maximum(source, 0), batch_dims=1), 0.0)
        return (audio + volume[:, tf.newaxis] * copy) / 2

    def add_to_one(example: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        clip, clip_offset, clip_volume = example
        # A slice of fixed length out of zeros and clip keeps the shape static, also under XLA.
        padded = tf.pad(clip, [[num_samples, 0]])
        copy = tf.slice(padded, [num_samples - clip_offset], [num_samples])
        return (clip + clip_volume * copy) / 2

    return tf.map_fn(
        add_to_one,
        (audio, offset, volume),
        fn_output_signature=tf.TensorSpec(audio.shape[1:], tf.float32),
    )


class Delay(Augmentation):
    """An echo whose time is drawn per example."""

    name = "delay"

    def __init__(self, settings: DelayConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)
        self.delay_ms = settings.delay_ms
        self.volume = settings.volume
        self.sample_rate_hz = sample_rate_hz

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Draws `delay_ms`; `volume` is a setting."""
        delay_ms = choose(self.delay_ms, uniforms[:, 0])
        return {"delay_ms": delay_ms, "volume": tf.fill(tf.shape(delay_ms), float(self.volume))}

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `delay`."""
        return delay(audio, parameters["delay_ms"], parameters["volume"], self.sample_rate_hz)
