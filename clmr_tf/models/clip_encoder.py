"""The interface of all encoders: networks that map a clip of raw audio to 512 numbers."""

import abc
import contextlib
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

CLIP_NUM_SAMPLES = {22050: 59049, 16000: 43470, 8000: 20736}
"""Samples of a clip by sample rate in Hz; the lengths that SampleCNN reduces to one frame."""


class ClipEncoder(keras.Model, abc.ABC):
    """The interface of all encoders, which training, export, probes and inference use.

    Call: float [batch, samples] or [batch, samples, 1] in [-1, 1] -> float [batch, 512] at any width. The default input
    is 59,049 samples (2.678 s) at 22,050 Hz.

    A subclass creates its layers in `__init__` and all their weights in `build`. Checkpoints name a weight by its
    layer, so the names of layers must be unique within an encoder and never change. It normalises with
    `BatchNormalization1D`, whose statistics are the same on all replicas. `clmr_tf.models.encoders` gives the subclass
    a name.

    Args:
        width: Scales the channels of the layers; at 1 they are those of the publication.
        sample_rate_hz: 22050, 16000 (43,470 samples) or 8000 (20,736 samples).
        seed: Makes the initial weights reproducible.
        **kwargs: Passed to `keras.Model`.

    Attributes:
        clip_num_samples: Length of a clip.

    Raises:
        ValueError: For other arguments, and on call for another length than `clip_num_samples`.
    """

    def __init__(self, width: float = 1.0, sample_rate_hz: int = 22050, seed: int | None = None, **kwargs) -> None:
        if width <= 0:
            raise ValueError(f"width must be positive. Received: width={width}")
        if sample_rate_hz not in CLIP_NUM_SAMPLES:
            raise ValueError(f"sample_rate_hz must be one of {list(CLIP_NUM_SAMPLES)}. Received: {sample_rate_hz}")
        super().__init__(**kwargs)
        self.width = width
        self.sample_rate_hz = sample_rate_hz
        self.seed = seed
        self.clip_num_samples = CLIP_NUM_SAMPLES[sample_rate_hz]

    @abc.abstractmethod
    def folded(self, *, in_8_bits: bool = False) -> Callable[[tf.Tensor], tf.Tensor]:
        """The built network at inference as a function without variables, for converters to other runtimes.

        Batch normalisation is folded into the layer before it. The function uses only operations that every runtime
        has: LiteRT without TensorFlow operations, ONNX of 2021. Frames are represented by images with one row, because
        converters wrap each one-dimensional operation in reshapes.

        Args:
            in_8_bits: The converter will round constants to 8 bits. Values that need more precision must not be
                constants.

        Returns:
            From audio float32 [n, clip_num_samples] to the embedding float32 [n, 512].
        """

    @property
    def arguments(self) -> dict:
        """The arguments that build the same network; the seed is left out, because it only decides initial weights."""
        return {"width": self.width, "sample_rate_hz": self.sample_rate_hz}

    def get_config(self) -> dict:
        """The arguments of the model."""
        return {**super().get_config(), **self.arguments, "seed": self.seed}

    def _clips(self, inputs: tf.Tensor) -> tf.Tensor:
        """The input of a call without its channel axis, [batch, samples], after a check of its length."""
        clips = tf.squeeze(inputs, -1) if inputs.shape.rank == 3 else inputs
        num_samples = clips.shape[1]
        if num_samples is None:
            return tf.ensure_shape(clips, [None, self.clip_num_samples])
        if num_samples != self.clip_num_samples:
            raise ValueError(
                f"{type(self).__name__} at {self.sample_rate_hz} Hz takes clips of {self.clip_num_samples} samples. "
                f"Received: {num_samples} samples"
            )
        return clips


def scale_channels(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8, which suits vector units and tensor cores."""
    return max(8, 8 * round(channels * width / 8))


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Sets Keras' global dtype policy, such as "float32", within a `with` block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
