"""Files of `torch.save` taken apart, to be put together in other ways."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np

from clmr_tf.pytorch.writing import state_dict_bytes

GOLDEN = Path(__file__).parents[2] / "golden"


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def with_pickle(content: bytes) -> bytes:
    """An archive of `torch.save` with another data.pkl, and no storages."""
    return archive_of({"archive/data.pkl": content, "archive/version": b"3\n"})


def lightning_bytes(tensors: dict[str, np.ndarray]) -> bytes:
    """A state dict as Lightning saves it."""
    files = members(state_dict_bytes(tensors))
    around = pickle.dumps({"pytorch-lightning_version": "1.9.0", "epoch": 3, "global_step": 12, "state_dict": 0}, 2)
    # Without the 0 and the end of the outer pickle, and without the beginning and the end of the inner one.
    before, after = around[: -len(b"K\x00u.")], b"u."
    files["archive/data.pkl"] = before + files["archive/data.pkl"][2:-1] + after
    return archive_of(files)
