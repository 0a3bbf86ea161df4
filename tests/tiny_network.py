"""A network of four layers on clips of 27 samples, which is traced in a third of the time."""

import pytest

from clmr_tf.models import clip_encoder, sample_cnn

CLIP_NUM_SAMPLES = 3**3


def use_tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces SampleCNN 3^9 at 22,050 Hz with the small network."""
    monkeypatch.setitem(sample_cnn.POOL_SIZES, 22_050, (3, 3))
    monkeypatch.setitem(clip_encoder.CLIP_NUM_SAMPLES, 22_050, CLIP_NUM_SAMPLES)
    monkeypatch.setattr(sample_cnn, "_BLOCK_CHANNELS", (128,))


@pytest.fixture(scope="module")
def tiny_network():
    """Makes every training of the module use the small network."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_tiny_network(monkeypatch)
        yield
