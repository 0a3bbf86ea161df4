"""White noise in a fixed ratio to the clip."""

import tensorflow as tf

from clmr_tf.augment.augmentation import Augmentation, Parameters, as_audio, as_parameter, as_seeds, check_batch, choose
from clmr_tf.config.augmentation import NoiseConfig


def add_noise(audio: tf.Tensor, noise_to_signal: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Adds white Gaussian noise: audio + noise_to_signal * std(audio) * n, with n ~ N(0, 1) for each sample.

    The standard deviation is the clip's own, about its mean, so silence and direct current stay as they
    are. A signal-to-noise ratio of d dB is `noise_to_signal` 10^(-d / 20). The definition is that of
    torchaudio-augmentations 0.2.4, where the ratio goes by the name of `snr`.

    Args:
        audio: float32 [batch, samples].
        noise_to_signal: float32 [batch], >= 0; at 0 an example comes back bit for bit, at hardly any cost.
        seeds: int32 [batch, 2]; an example's noise depends on its own pair only.

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If an argument is of another type or shape.
    """
    audio = as_audio(audio)
    noise_to_signal = as_parameter(noise_to_signal, "noise_to_signal", audio)
    seeds = as_seeds(seeds)
    check_batch(seeds, "seeds", audio)

    def add_to_one(example: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        clip, ratio, seed = example
        # The order of a long sum depends on the number of threads; rounding float64 hides it.
        deviation = tf.cast(tf.math.reduce_std(tf.cast(clip, tf.float64)), tf.float32)
        return clip + ratio * deviation * tf.random.stateless_normal(tf.shape(clip), seed)

    # A row at a time, as a draw of normal numbers takes one pair of seeds; but only the rows that get noise, which are
    # one in a hundred as released.
    rows = tf.where(noise_to_signal > 0)
    noisy_rows = tf.map_fn(
        add_to_one,
        tuple(tf.gather_nd(values, rows) for values in (audio, noise_to_signal, seeds)),
        fn_output_signature=tf.TensorSpec(audio.shape[1:], tf.float32),
    )
    return tf.ensure_shape(tf.tensor_scatter_nd_update(audio, rows, noisy_rows), audio.shape)


class Noise(Augmentation):
    """White noise whose ratio to the clip is drawn per example."""

    name = "noise"

    def __init__(self, settings: NoiseConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)
        self.noise_to_signal = settings.noise_to_signal

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Draws `noise_to_signal` and passes `seeds` on, from which the noise itself is made."""
        return {"noise_to_signal": choose(self.noise_to_signal, uniforms[:, 0]), "seeds": seeds}

    def apply(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """As in the base, but no noise is made for examples that do not get it."""
        ratio = tf.where(parameters["applied"], parameters["noise_to_signal"], 0.0)
        return add_noise(audio, ratio, parameters["seeds"])

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `add_noise`."""
        return add_noise(audio, parameters["noise_to_signal"], parameters["seeds"])
