"""White noise at a given ratio to the clip."""

import tensorflow as tf

from clmr_tf.augment.effect import Augmentation, Parameters, as_audio, as_parameter, as_seeds, check_batch
from clmr_tf.augment.randomness import sample_range
from clmr_tf.config.augmentation import NoiseConfig


def add_noise(audio: tf.Tensor, noise_to_signal: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Adds white Gaussian noise: audio + noise_to_signal * std(audio) * n, with n ~ N(0, 1) for each sample.

    std is the clip's standard deviation, so silence and a constant offset are unchanged. A signal-to-noise ratio of d
    dB is a `noise_to_signal` of 10^(-d / 20). torchaudio-augmentations 0.2.4 defines the ratio in the same way and
    calls it `snr`.

    Args:
        audio: float32 [batch, samples].
        noise_to_signal: float32 [batch], >= 0; at 0 an example is returned bit for bit at almost no cost.
        seeds: int32 [batch, 2]; an example's noise depends on its own seed pair only.

    Returns:
        float32 [batch, samples].

    Raises:
        UsageError: If an argument has another dtype or shape.
    """
    audio = as_audio(audio)
    noise_to_signal = as_parameter(noise_to_signal, "noise_to_signal", audio)
    seeds = as_seeds(seeds)
    check_batch(seeds, "seeds", audio)

    def add_to_clip(example: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        clip, ratio, seed = example
        # The order of a long sum depends on the number of threads; rounding a float64 sum hides that.
        standard_deviation = tf.cast(tf.math.reduce_std(tf.cast(clip, tf.float64)), tf.float32)
        return clip + ratio * standard_deviation * tf.random.stateless_normal(tf.shape(clip), seed)

    # A loop, since the generator takes one seed pair per call; but only over the rows that get noise, one in a hundred
    # with the released settings.
    rows = tf.where(noise_to_signal > 0)
    noisy_rows = tf.map_fn(
        add_to_clip,
        tuple(tf.gather_nd(values, rows) for values in (audio, noise_to_signal, seeds)),
        fn_output_signature=tf.TensorSpec(audio.shape[1:], tf.float32),
    )
    return tf.ensure_shape(tf.tensor_scatter_nd_update(audio, rows, noisy_rows), audio.shape)


class Noise(Augmentation):
    """White noise at a random ratio to the clip."""

    name = "noise"

    def __init__(self, settings: NoiseConfig, sample_rate_hz: int) -> None:
        super().__init__(settings.probability)
        self.noise_to_signal = settings.noise_to_signal

    def draw_parameters(self, uniforms: tf.Tensor, seeds: tf.Tensor) -> Parameters:
        """Draws `noise_to_signal`, and passes on `seeds` for the noise itself."""
        return {"noise_to_signal": sample_range(self.noise_to_signal, uniforms[:, 0]), "seeds": seeds}

    def apply(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """As in the base class, but no noise is generated for rows that do not get any."""
        ratio = tf.where(parameters["applied"], parameters["noise_to_signal"], 0.0)
        return add_noise(audio, ratio, parameters["seeds"])

    def transform(self, audio: tf.Tensor, parameters: Parameters) -> tf.Tensor:
        """See `add_noise`."""
        return add_noise(audio, parameters["noise_to_signal"], parameters["seeds"])
