"""Files of `torch.save` taken apart, to be put together in other ways."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np

from clmr_tf.convert.translation import state_dict_bytes

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


def pickled_dict(entries: dict[str, bytes]) -> bytes:
    """A pickle of a dictionary whose values are given as they are pickled, without beginning and end."""
    items = b"".join(b"V" + key.encode() + b"\n" + value for key, value in entries.items())
    return b"\x80\x02}(" + items + b"u."


def pickled_tensor(shape: tuple[int, ...], strides: tuple[int, ...], num_elements: int, first: int = 0) -> bytes:
    """What a pickle of PyTorch says about a float32 tensor of the storage 0, be it true or not."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(pickle.dumps(value, 2)[2:-1] for value in values) + b"t"

    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\n" + pickle.dumps(num_elements, 2)[2:-1] + b"tQ"
    arguments = storage + pickle.dumps(first, 2)[2:-1] + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89}tR"


def tensor_file(
    *, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), num_elements: int = 4, first: int = 0
) -> bytes:
    """A checkpoint of one such tensor; its storage has what it says, up to 16 MB."""
    content = pickled_dict({"weight": pickled_tensor(shape, strides, num_elements, first)})
    return archive_of({"a/data.pkl": content, "a/data/0": bytes(min(4 * num_elements, 2**24))})
