"""Files with the songs of a library, their map and their neighbours for other viewers.

songs.parquet           for Embedding Atlas: path, name, folder, duration_seconds, cluster, x, y, a column for each tag,
                        and neighbors: `ids` (rows) and `distances` (1 - cosine) of the nearest songs
projector_config.pbtxt  for TensorBoard's projector, with vectors.tsv (mean embeddings) and metadata.tsv (names)
"""

import io
from collections.abc import Mapping
from pathlib import Path, PurePath

import numpy as np
import pyarrow
from pyarrow import parquet

from clmr_tf.browse.layout import Layout
from clmr_tf.files import writable_or_usage_error, write_atomically
from clmr_tf.inference.library import Library

_NUM_NEIGHBOURS = 10
_ROWS_PER_BLOCK = 1024
_PROJECTOR_CONFIG = """embeddings {
  tensor_name: "songs"
  tensor_path: "vectors.tsv"
  metadata_path: "metadata.tsv"
}
"""


def write_for_viewers(folder: Path, library: Library, layout: Layout, tags: Mapping[str, np.ndarray]) -> None:
    """Writes the files to a folder, which is made if it does not exist.

    Args:
        folder: Files of the same names are replaced.
        library: The songs.
        layout: Their map, with t-SNE.
        tags: Probabilities by the name of the tag, float32 [songs].

    Raises:
        UsageError: If they cannot be written.
    """
    paths = [PurePath(path) for path in library.paths]
    columns = {
        "path": library.paths,
        "name": [path.stem for path in paths],
        "folder": [path.parent.name for path in paths],
        "duration_seconds": library.durations_seconds,
        "cluster": [f"cluster {number + 1}" for number in layout.cluster],
        "x": layout.tsne[:, 0],
        "y": layout.tsne[:, 1],
        "neighbors": _neighbours(library.units),
        **{f"tag: {name}": values for name, values in tags.items()},
    }
    content = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), content)
    described = [(path.stem, path.parent.name, str(path)) for path in paths]
    with writable_or_usage_error(folder, "choose another --write-for-viewers"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "songs.parquet", content.getvalue())
        vectors = "\n".join("\t".join(f"{value:.6g}" for value in vector) for vector in library.means)
        write_atomically(folder / "vectors.tsv", vectors + "\n")
        rows = [("name", "folder", "path"), *described]
        write_atomically(folder / "metadata.tsv", "\n".join("\t".join(map(_cell, row)) for row in rows) + "\n")
        write_atomically(folder / "projector_config.pbtxt", _PROJECTOR_CONFIG)


def _cell(text: str) -> str:
    """A name may have tabs and line ends."""
    return " ".join(text.split())


def _neighbours(units: np.ndarray) -> list[dict[str, list]]:
    """The nearest songs of each, without itself."""
    found = []
    count = min(_NUM_NEIGHBOURS, len(units) - 1)
    for start in range(0, len(units), _ROWS_PER_BLOCK):
        cosines = units[start : start + _ROWS_PER_BLOCK] @ units.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        nearest = np.argpartition(-cosines, max(count - 1, 0), axis=1)[:, :count]
        for row, near in zip(cosines, nearest, strict=True):
            rows = near[np.argsort(-row[near], kind="stable")]
            found.append({"ids": rows.tolist(), "distances": (1 - row[rows]).astype(float).tolist()})
    return found
