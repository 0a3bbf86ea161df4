"""Small corpora in place of those that the recipes learn from and are scored on."""

import json
import shutil
from pathlib import Path

from clmr_tf.recipes.recipe import PUBLISHED_CORPORA
from tests.synthetic import synthetic_corpus

TAGS = ("guitar", "no vocals", "techno")


def prepare_corpora(folder: Path) -> Path:
    """Writes a corpus for each pipeline that a recipe names, with two clips a song, and for each sample rate."""
    first = synthetic_corpus(
        folder / "magnatagatune",
        num_songs={"train": 6, "valid": 3, "test": 3},
        items_per_song=2,
        num_samples=130_000,
        tag_names=TAGS,
    )
    manifests = {"magnatagatune": first.folder / "manifest.json"}
    for name in ("magnatagatune-8000hz", "magnatagatune-16000hz", "msd", "fma", "gtzan", "billboard"):
        shutil.copytree(first.folder, folder / name)
        manifests[name] = folder / name / "manifest.json"
    for name, path in manifests.items():
        rate_hz = int(name.split("-")[1].removesuffix("hz")) if name.endswith("hz") else 22_050
        metadata = {"name": PUBLISHED_CORPORA[name.split("-")[0]], "sample_rate_hz": rate_hz}
        path.write_text(json.dumps({**json.loads(path.read_text()), **metadata}))
    return folder
