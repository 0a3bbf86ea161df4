"""The augmentations page is complete and up to date, with the errors that are measured now."""

import dataclasses
import re

import numpy as np
import pytest

from clmr_tf.config.augmentation import AUGMENTATION_NAMES, AugmentationConfig
from docs import augmentation_errors, augmentations
from tests.clmr_tf.augment.golden import read_clip

# Index of a section's line with the measured errors, after its heading and description.
MEASURED = 2
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")


@pytest.fixture(scope="module")
def clip():
    return read_clip(*augmentations.CLIP)


def committed_page():
    """Returns the text before the sections, and the sections by heading."""
    page = (augmentations.DOCS / "augmentations.md").read_text(encoding="utf-8")
    head, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    return head, {section.splitlines()[0].removeprefix("## "): section for section in sections}


def test_page_has_a_section_with_settings_and_picture_per_augmentation():
    head, sections = committed_page()
    assert head.strip() == augmentations.HEAD.format(order=", ".join(AUGMENTATION_NAMES)).strip()
    assert tuple(sections) == tuple(augmentations.EFFECTS) == AUGMENTATION_NAMES
    for name, section in sections.items():
        for field in dataclasses.fields(getattr(AugmentationConfig(), name)):
            assert f"| `{name}.{field.name}` | " in section
        (picture,) = re.findall(r"!\[.*\]\((.*)\)", section)
        assert (augmentations.DOCS / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", AUGMENTATION_NAMES)
def test_committed_section_equals_a_new_one_with_errors_measured_now(name, clip):
    committed = committed_page()[1][name].strip().splitlines()
    made = augmentations.section(name, augmentations.EFFECTS[name], clip).strip().splitlines()
    said, says = committed.pop(MEASURED), made.pop(MEASURED)
    assert made == committed
    assert NUMBER.sub("number", says) == NUMBER.sub("number", said)
    then, now = (np.array(NUMBER.findall(line), float) for line in (said, says))
    # Other processors round differently, but not by 50 %.
    np.testing.assert_allclose(now, then, rtol=0.5, atol=1e-7)


def test_gain_error_is_really_measured(clip, monkeypatch):
    assert augmentation_errors.measure_gain(clip) == "Largest error: 0e+00 of the peak."
    # A factor of -1 instead of -13.7 dB (0.2065) gives an error of 1.2065 / 0.2065.
    monkeypatch.setattr(augmentation_errors, "gain", lambda audio, gain_db: augmentation_errors.polarity(audio))
    assert augmentation_errors.measure_gain(clip) == "Largest error: 6e+00 of the peak."


def test_picture_of_an_effect_is_drawn(clip, tmp_path):
    augmentations.draw("gain", augmentations.EFFECTS["gain"], clip, tmp_path / "gain.png")
    assert (tmp_path / "gain.png").read_bytes().startswith(b"\x89PNG")
