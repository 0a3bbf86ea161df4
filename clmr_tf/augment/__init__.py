"""Augmentations of audio in the graph: pure functions, and the chain that draws their parameters.

Everywhere `audio` is float32 [batch, samples] and a parameter float32 [batch], one value per example.
"""

from clmr_tf.augment.chain import AugmentationChain
from clmr_tf.augment.echo import delay
from clmr_tf.augment.levels import gain, polarity
from clmr_tf.augment.noise import add_noise

__all__ = ["AugmentationChain", "add_noise", "delay", "gain", "polarity"]
