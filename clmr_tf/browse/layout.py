"""Where each song is on the map, and its cluster; computed once and kept beside the table.

The file of the table `music` is `music.map.npz`: `pca` and, once it is computed, `tsne`, both float32 [songs, 2];
`cluster`, int32 [songs], from 0, the largest first; and `key`, a hash of what they were computed from.
"""

import dataclasses
import hashlib
import io
import logging

import numpy as np

from clmr_tf.files import UnreadableArraysError, read_arrays, write_atomically
from clmr_tf.inference.library import Library

_LOG = logging.getLogger(__name__)
_NUM_COMPONENTS = 50
_NUM_CLUSTERS = 12
_PERPLEXITY = 30
# With fewer songs, t-SNE has nothing to arrange.
_MIN_SONGS_FOR_TSNE = 10


@dataclasses.dataclass(frozen=True)
class Layout:
    """A map of the songs of a table.

    Attributes:
        pca: First two principal components, float32 [songs, 2].
        tsne: t-SNE, float32 [songs, 2]; None if it is not computed yet.
        cluster: int32 [songs], from 0, the largest first.
    """

    pca: np.ndarray
    tsne: np.ndarray | None
    cluster: np.ndarray


class LayoutFile:
    """Reads the map of a library, or computes it.

    Args:
        library: The library.

    Attributes:
        key: A hash of model, paths and embeddings of the library, in hexadecimal.
    """

    def __init__(self, library: Library) -> None:
        self._path = library.table.with_name(f"{library.table.name}.map.npz")
        self._units = library.units
        digest = hashlib.sha256("\0".join([library.model_hash, *library.paths]).encode())
        digest.update(np.ascontiguousarray(self._units))
        self.key = digest.hexdigest()

    def first(self) -> Layout:
        """The kept map; if there is none of these songs, one without t-SNE, which takes a second."""
        try:
            arrays = read_arrays(self._path, "key", "pca", "tsne", "cluster")
            if str(arrays["key"]) == self.key:
                return Layout(arrays["pca"], arrays["tsne"], arrays["cluster"])
        except UnreadableArraysError:
            # Missing or damaged: it is computed again.
            pass
        components = self._components()
        return Layout(_two_columns(components), None, _clusters(components))

    def complete(self, layout: Layout) -> Layout:
        """Adds t-SNE, which takes minutes for tens of thousands of songs, and keeps the map."""
        components = self._components()
        tsne = layout.pca
        if len(components) >= _MIN_SONGS_FOR_TSNE and components.any():
            # Imported late, like all of scikit-learn, because it takes a second.
            from sklearn.manifold import TSNE

            perplexity = min(_PERPLEXITY, (len(components) - 1) / 3)
            tsne = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(components)
        layout = dataclasses.replace(layout, tsne=tsne.astype(np.float32))
        content = io.BytesIO()
        np.savez(content, key=np.array(self.key), **dataclasses.asdict(layout))
        try:
            write_atomically(self._path, content.getvalue())
        except OSError as error:
            _LOG.warning("The map cannot be kept in %s (%s), so it is computed again next time.", self._path, error)
        return layout

    def _components(self) -> np.ndarray:
        # A single song, or copies of one: the components have no spread, and scikit-learn would divide by zero.
        if not np.ptp(self._units, axis=0).any():
            return np.zeros((len(self._units), 1), np.float32)
        from sklearn.decomposition import PCA

        num_components = min(_NUM_COMPONENTS, *self._units.shape)
        return PCA(num_components, svd_solver="randomized", random_state=0).fit_transform(self._units)


def _two_columns(components: np.ndarray) -> np.ndarray:
    """The first two components of each song; zeros for those that it does not have."""
    return np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - components.shape[1])))).astype(np.float32)


def _clusters(components: np.ndarray) -> np.ndarray:
    from sklearn.cluster import KMeans

    num_clusters = min(_NUM_CLUSTERS, len(np.unique(components, axis=0)))
    labels = KMeans(num_clusters, n_init=3, random_state=0).fit_predict(components)
    by_size = np.argsort(-np.bincount(labels, minlength=num_clusters), kind="stable")
    return np.argsort(by_size)[labels].astype(np.int32)
