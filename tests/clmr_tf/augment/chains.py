"""The chains of the tests: what they apply, and how their views are compared."""

import dataclasses

import numpy as np
import tensorflow as tf

from clmr_tf.config.augmentation import (
    AUGMENTATION_NAMES,
    AugmentationConfig,
    DelayConfig,
    FilterConfig,
    GainConfig,
    NoiseConfig,
    PitchConfig,
    PolarityConfig,
    ReverbConfig,
)

BUSY = AugmentationConfig(
    PolarityConfig(0.5),
    NoiseConfig(0.5),
    GainConfig(0.5),
    FilterConfig(0.5),
    DelayConfig(0.5),
    PitchConfig(0.5),
    ReverbConfig(0.5),
)
ALWAYS = AugmentationConfig(*(dataclasses.replace(getattr(BUSY, name), probability=1.0) for name in AUGMENTATION_NAMES))


def bits(audio):
    return np.asarray(audio).view(np.uint32)


def draw_applied(chain, seeds):
    return tf.stack([parameters["applied"] for parameters in chain.draw(seeds).values()])
