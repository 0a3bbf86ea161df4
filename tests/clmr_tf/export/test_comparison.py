"""Outputs that are not the golden ones are refused, with how far they are off."""

import numpy as np
import pytest

from clmr_tf.errors import ClmrError
from clmr_tf.export.runtime_formats import FORMATS, Golden, compare

EMBEDDING = np.random.default_rng(0).uniform(0, 2, (3, 512)).astype(np.float32)


def tags_of(embedding: np.ndarray) -> np.ndarray:
    """A head that sees two features."""
    return embedding[:, :2].astype(np.float64) / 2


GOLDEN = Golden(EMBEDDING, tags_of)
OUTPUTS = {"embedding": EMBEDDING, "tags": tags_of(EMBEDDING)}


def with_tag(value: float) -> dict[str, np.ndarray]:
    """The golden outputs with another probability in one place."""
    tags = OUTPUTS["tags"].copy()
    tags[1, 1] = value
    return {**OUTPUTS, "tags": tags}


@pytest.mark.parametrize(("kind", "allowed"), [("fp32", 1e-3), ("fp16", 5e-3), ("int8", 1e-3), ("onnx", 1e-3)])
def test_tags_within_the_limit_are_accepted(kind, allowed):
    probability = OUTPUTS["tags"][1, 1]
    errors = compare(FORMATS[kind], with_tag(probability + 0.9 * allowed), GOLDEN)
    assert errors["largest_head_error"] == errors["largest_tag_error"] == pytest.approx(0.9 * allowed)
    assert errors["largest_error"] == 0 and errors["least_cosine"] == pytest.approx(1)
    with pytest.raises(ClmrError, match=rf"{FORMATS[kind].file} gives probabilities of tags .* not kept"):
        compare(FORMATS[kind], with_tag(probability - 1.1 * allowed), GOLDEN)


def test_the_head_is_compared_on_the_embedding_of_the_file():
    embedding = EMBEDDING.copy()
    embedding[0, 0] += 0.3
    errors = compare(FORMATS["int8"], {"embedding": embedding, "tags": tags_of(embedding)}, GOLDEN)
    assert errors["largest_head_error"] == 0 and errors["largest_tag_error"] == pytest.approx(0.15)
    with pytest.raises(ClmrError, match=r"probabilities of tags .* differ by 1\.5e-01 \(allowed 1e-03\)"):
        compare(FORMATS["int8"], {**OUTPUTS, "embedding": embedding}, GOLDEN)


@pytest.mark.parametrize("kind", FORMATS)
def test_nan_is_refused(kind):
    with pytest.raises(ClmrError, match=r"The `tags` that .* gives for the golden clips is not finite"):
        compare(FORMATS[kind], with_tag(np.nan), GOLDEN)
    with pytest.raises(ClmrError, match=r"The `embedding` that .* gives for the golden clips is not finite"):
        compare(FORMATS[kind], {**OUTPUTS, "embedding": np.full_like(EMBEDDING, np.nan)}, GOLDEN)


@pytest.mark.parametrize(
    ("received", "golden"),
    [
        ({"embedding": EMBEDDING}, GOLDEN),
        (OUTPUTS, Golden(EMBEDDING, None)),
        ({**OUTPUTS, "tags": OUTPUTS["tags"][:, :1]}, GOLDEN),
        ({**OUTPUTS, "embedding": EMBEDDING[:2]}, GOLDEN),
    ],
    ids=["no-tags", "tags-of-nothing", "fewer-tags", "fewer-rows"],
)
def test_other_outputs_are_refused(received, golden):
    with pytest.raises(ClmrError, match=r"model\.tflite gives outputs of shapes .*, not "):
        compare(FORMATS["fp32"], received, golden)


def test_a_model_without_a_head_has_no_error_of_tags():
    errors = compare(FORMATS["fp32"], {"embedding": EMBEDDING}, Golden(EMBEDDING, None))
    assert set(errors) == {"largest_error", "least_cosine"}
