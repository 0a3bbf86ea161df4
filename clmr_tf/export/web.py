"""Writes a model as a web page that tags and embeds songs in the browser with LiteRT.js.

index.html, *.js, style.css   the page, from clmr_tf/export/web_page
model.json                    what the page needs to know about the model, and SHA-256 of the files below
model.tflite                  the network, float32, for one clip
golden.bin                    float32: audio of the golden clips, then the embeddings and tags that it must give
songs.bin                     with a table: float32, unit vectors of its songs
runtime/                      LiteRT.js, if it comes with the page
LICENSE                       Apache-2.0, of the page and of LiteRT.js
"""

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clmr_tf.audio.downmix import mono_weights
from clmr_tf.console import printable
from clmr_tf.errors import UsageError
from clmr_tf.export.keras_model import read_encoder, weights_hash
from clmr_tf.export.model_card import write_manifest
from clmr_tf.export.model_folder import WEB_FOLDER, is_same_model, read_golden, read_manifest
from clmr_tf.export.runtime_formats import TFLITE_FORMATS, golden_outputs
from clmr_tf.export.runtimes import check_outputs
from clmr_tf.files import UnreadableArraysError, put_in_place, read_arrays
from clmr_tf.models import EMBEDDING_DIM

MAX_SONGS = 10_000
"""Most songs of a table, 20 MB; every visitor of the page fetches them."""

RuntimeSource = Literal["bundled", "cdn"]

_PAGE = Path(__file__).with_name("web_page")
_MAX_CHANNELS = 8
_FORMAT = TFLITE_FORMATS["fp32"]

_VERSION = "2.5.3"
_TITLE = f"LiteRT.js {_VERSION}"
_PACKAGE_URL = f"https://registry.npmjs.org/@litertjs/core/-/core-{_VERSION}.tgz"
_PACKAGE_SHA256 = "a97660833e9e7e1063c95e12016718881240b14f7438728a2f62785e912d30fd"
_CDN = "https://cdn.jsdelivr.net"
# The parts of the package that the page uses, by their role. There are builds for threads, which need cross-origin
# isolation, and for relaxed SIMD, which not every browser has.
_RUNTIME = {
    "library": ("dist/index.js", "sha256-59rMw6Me74kISKc3zLhj3tXwRqa0DD/cBVZJWt612bM="),
    "loader": ("wasm/litert_wasm_compat_internal.js", "sha256-TY+JS3iDZU/W6EOXMKpB55zqq30ZGE/E8fCw8aKiyKU="),
    "wasm": ("wasm/litert_wasm_compat_internal.wasm", "sha256-UlXIrQbqvb0lIs3r9rIvwQ+vdGJcI6SbngclcM0fpBw="),
}


@dataclasses.dataclass(frozen=True)
class WebSongs:
    """The songs of a table, for the nearest songs on the page.

    Attributes:
        names: Their paths below their common folder, without suffix.
        means: Mean embedding of each, float32 [songs, 512].
        model_hash: SHA-256 of the weights that the table was made with.
        hop_num_samples: Distance between the starts of the windows.
    """

    names: tuple[str, ...]
    means: np.ndarray
    model_hash: str
    hop_num_samples: int


def read_web_songs(table: Path) -> WebSongs:
    """Reads a table for a web page, without its silent songs.

    Args:
        table: .npz file of `python -m clmr_tf.embed`.

    Raises:
        UsageError: If it cannot be read, or has no songs or too many.
    """
    try:
        arrays = read_arrays(table, "paths", "means", "is_silent", "metadata")
        metadata = json.loads(str(arrays["metadata"]))
        model_hash, hop_num_samples = str(metadata["model_hash"]), int(metadata["hop_num_samples"])
        paths, means = arrays["paths"][~arrays["is_silent"]], arrays["means"][~arrays["is_silent"]]
        if means.shape != (len(paths), EMBEDDING_DIM) or not np.isfinite(means).all() or hop_num_samples < 1:
            raise UnreadableArraysError("its arrays do not match")
        names = _names_without_common_folder(paths.tolist())
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(
            f"The table {table} cannot be read; give --web-table an .npz file of `python -m clmr_tf.embed`."
        ) from error
    if not 1 <= len(names) <= MAX_SONGS:
        raise UsageError(
            f"The table {table} has {len(names):,} songs that are not silent, and a web page takes 1 to {MAX_SONGS:,}; "
            "embed fewer files."
        )
    return WebSongs(names, means.astype("<f4"), model_hash, hop_num_samples)


def _names_without_common_folder(paths: list[str]) -> tuple[str, ...]:
    # Visitors need not know where the files are on the exporter's disk.
    common = os.path.commonpath([str(Path(path).parent) for path in paths]) if paths else ""
    return tuple(printable(str(Path(path).relative_to(common).with_suffix(""))) for path in paths)


def add_web_page(folder: Path, source: RuntimeSource, songs: WebSongs | None = None) -> Path:
    """Writes `web/` to a model folder, replaces an earlier one, and describes it in the manifest and model card.

    Args:
        folder: Model folder with `model.tflite`. Its network is compared with the golden numbers here, and by the page
            whenever it is loaded.
        source: Whether LiteRT.js is copied to the page or fetched from a CDN by the browser.
        songs: Songs among which the page finds the nearest.

    Returns:
        The folder of the page.

    Raises:
        UsageError: If the songs were embedded with another model, or a part of the model folder cannot be read.
        ClmrError: If LiteRT.js cannot be downloaded, or the network for the page gives other outputs.
    """
    if songs and not is_same_model(songs.model_hash, weights_hash(read_encoder(folder))):
        raise UsageError("--web-table was made with another model; embed the files again with this one.")
    web = folder / WEB_FOLDER
    with tempfile.TemporaryDirectory(prefix=f".{WEB_FOLDER}.", dir=folder) as temporary:
        network = Path(temporary) / _FORMAT.file
        network.write_bytes(_for_one_clip((folder / _FORMAT.file).read_bytes()))
        checked = check_outputs(network, _FORMAT, folder)
        draft = Path(temporary) / WEB_FOLDER
        shutil.copytree(_PAGE, draft)
        if source == "bundled":
            _unpack_runtime(draft / "runtime")
        else:
            _allow_cdn(draft / "index.html")
        shutil.copyfile(network, draft / _FORMAT.file)
        (draft / "golden.bin").write_bytes(_golden_numbers(folder))
        if songs:
            norms = np.maximum(np.linalg.norm(songs.means, axis=1, keepdims=True), 1e-12)
            (draft / "songs.bin").write_bytes((songs.means / norms).astype("<f4").tobytes())
        description = _description(folder, draft, source, songs, checked)
        (draft / "model.json").write_text(json.dumps(description), encoding="utf-8")
        put_in_place(draft, web, Path(temporary) / "previous")
    manifest = read_manifest(folder)
    manifest["web"] = {
        "runtime": _TITLE,
        "source": source,
        "num_bytes": sum(path.stat().st_size for path in web.rglob("*") if path.is_file()),
        "num_songs": len(songs.names) if songs else 0,
        **checked,
    }
    write_manifest(folder, manifest)
    return web


def _for_one_clip(network: bytes) -> bytes:
    """A .tflite file for exactly one clip: LiteRT.js rejects inputs for a number of clips that is left open."""
    from tensorflow.lite.python import schema_py_generated as schema

    content = bytearray(network)
    model = schema.Model.GetRootAs(content)
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            if tensor.ShapeSignatureLength():
                # A view of `content`. The shape beside it already says 1.
                signature = tensor.ShapeSignatureAsNumpy()
                signature[signature == -1] = 1
    return bytes(content)


def _golden_numbers(folder: Path) -> bytes:
    """The content of golden.bin."""
    audio, outputs = read_golden(folder)["audio"], golden_outputs(folder).outputs
    # The last row of each output is the first clip again.
    arrays = [audio, *(rows[: len(audio)] for rows in outputs.values())]
    return b"".join(array.astype("<f4").tobytes() for array in arrays)


def _description(
    folder: Path, draft: Path, source: RuntimeSource, songs: WebSongs | None, checked: dict[str, Any]
) -> dict[str, Any]:
    """The content of model.json."""
    manifest = read_manifest(folder)
    clip_num_samples = manifest["input"]["clip_num_samples"]
    files = {role: {"name": name, "integrity": integrity} for role, (name, integrity) in _RUNTIME.items()}
    base = "runtime/" if source == "bundled" else f"{_CDN}/npm/@litertjs/core@{_VERSION}/"
    return {
        "name": manifest["name"],
        "licence": manifest["licence"],
        "clip_num_samples": clip_num_samples,
        "sample_rate_hz": manifest["input"]["sample_rate_hz"],
        "hop_num_samples": songs.hop_num_samples if songs else clip_num_samples,
        "embedding_dim": EMBEDDING_DIM,
        "tag_names": manifest["tag_names"],
        "mono_weights": [mono_weights(1 + channel).tolist() for channel in range(_MAX_CHANNELS)],
        "files": {name: _integrity((draft / name).read_bytes()) for name in (_FORMAT.file, "golden.bin")},
        "golden": {
            "num_clips": len(read_golden(folder)["audio"]),
            "max_error": _FORMAT.max_error,
            "min_cosine": _FORMAT.min_cosine,
            # A steep head amplifies small differences between embeddings.
            "max_tag_error": _FORMAT.max_head_error + 2 * checked.get("largest_tag_error", 0.0),
        },
        "runtime": {"title": _TITLE, "base": base, **files},
        "songs": songs and {"names": songs.names, "integrity": _integrity((draft / "songs.bin").read_bytes())},
    }


def _integrity(content: bytes) -> str:
    """SHA-256 in the notation of browsers."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}"


def _unpack_runtime(folder: Path) -> None:
    from pipelines.preparation.downloads import RemoteFile, fetch

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clmr_tf"
    package = fetch(RemoteFile(f"litertjs-core-{_VERSION}.tgz", _PACKAGE_URL, f"sha256:{_PACKAGE_SHA256}"), cache)
    with tarfile.open(package) as archive:
        for name, _ in _RUNTIME.values():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(f"package/{name}").read())


def _allow_cdn(page: Path) -> None:
    """Adds the CDN to the Content-Security-Policy, which otherwise allows only the page's own host."""
    html = page.read_text(encoding="utf-8")
    page.write_text(html.replace("connect-src 'self'", f"connect-src 'self' {_CDN}"), encoding="utf-8")
