"""The encoders by name. All other code gets encoders from here and uses only the interface `ClipEncoder`."""

from typing import Any

from clmr_tf.errors import suggestion
from clmr_tf.models.clip_encoder import ClipEncoder, dtype_policy
from clmr_tf.models.mel_cnn import MelCNN
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.models.tune import Tail, TUNe

DEFAULT_ENCODER = "sample_cnn"
"""The paper's."""

ENCODERS: dict[str, type[ClipEncoder]] = {
    DEFAULT_ENCODER: SampleCNN,
    "mel_cnn": MelCNN,
    "tune": TUNe,
    "tail": Tail,
}
"""Encoders by their names in `--encoder`, configurations and model folders; `clmr_tf.config.train` lists them too."""


def encoder_class(name: str) -> type[ClipEncoder]:
    """The class of an encoder.

    Raises:
        ValueError: If no encoder has this name.
    """
    if name not in ENCODERS:
        advice = suggestion(name, ENCODERS, f"the encoders are {', '.join(ENCODERS)}.")
        raise ValueError(f"There is no encoder {name!r}; {advice}")
    return ENCODERS[name]


def encoder_name(encoder: ClipEncoder) -> str:
    """The name of the class of an encoder."""
    return next(name for name, one in ENCODERS.items() if type(encoder) is one)


def build_encoder(encoder: str = DEFAULT_ENCODER, **arguments: Any) -> ClipEncoder:
    """Builds an encoder that computes in float32, regardless of the global dtype policy.

    Args:
        encoder: Its name.
        **arguments: Arguments of its class.

    Raises:
        ValueError: If no encoder has this name, or it does not take these arguments.
    """
    # Through the policy, since layers do not inherit the dtype of their model.
    with dtype_policy("float32"):
        built = encoder_class(encoder)(**arguments)
        built.build()
    return built


def architecture_of(encoder: ClipEncoder) -> dict[str, Any]:
    """The arguments of `build_encoder` that build the same network, as model folders and results record them.

    The name of the default encoder is left out, as in all model folders that were written before there were other
    encoders.
    """
    name = encoder_name(encoder)
    return {**({} if name == DEFAULT_ENCODER else {"encoder": name}), **encoder.arguments}
