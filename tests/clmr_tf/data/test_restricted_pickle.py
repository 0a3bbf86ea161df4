import collections
import functools
import io
import os
import pickle
import sys

import numpy as np
import pytest

from clmr_tf.data.restricted_pickle import (
    NUMPY_SCALARS,
    PlainMapping,
    RestrictedUnpickler,
    StoredArray,
    load_plain_pickle,
)
from clmr_tf.errors import UsageError

# What Python 2.7 and NumPy 1.12 write for {'TRA': np.array([[True], [False], [True]])}, protocol 0.
PYTHON_2_VECTORS = (
    b"(dp0\nS'TRA'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
    b"(I1\n(I3\nI1\ntp8\ncnumpy\ndtype\np9\n(S'b1'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'|'\np13\nNNNI-1\nI-1\nI0\ntp14\nb"
    b"I00\nS'\\x01\\x00\\x01'\np15\ntp16\nbs."
)
# The beginning of filtered_list_test.cP as it is published.
PYTHON_2_IDS = b"(lp1\nS'TRAADIN128F931D672'\np2\naS'TRAADQW128F427CE68'\np3\na."


@pytest.fixture
def load(tmp_path):
    def write_and_load(content):
        (tmp_path / "data.pkl").write_bytes(content)
        return load_plain_pickle(tmp_path / "data.pkl")

    return write_and_load


class Malicious:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_pickles_written_by_python_2(load):
    assert load(PYTHON_2_IDS) == ["TRAADIN128F931D672", "TRAADQW128F427CE68"]
    vectors = load(PYTHON_2_VECTORS)
    np.testing.assert_array_equal(vectors["TRA"].to_array(), [[True], [False], [True]])
    np.testing.assert_array_equal(pickle.loads(PYTHON_2_VECTORS, encoding="latin1")["TRA"], [[True], [False], [True]])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol(load, protocol):
    arrays = {
        "bool": np.array([[True], [False]]),
        "float": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "big": np.arange(3, dtype=">i2"),
    }
    if protocol == 5:
        # From this protocol on, NumPy writes arrays with another function, which these files do not use.
        with pytest.raises(UsageError, match="numpy"):
            load(pickle.dumps(arrays, protocol))
        return
    for name, stored in load(pickle.dumps(arrays, protocol)).items():
        received = stored.to_array()
        np.testing.assert_array_equal(received, arrays[name])
        assert received.dtype == arrays[name].dtype
        with pytest.raises(ValueError, match="read-only"):
            received[0] = 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(load, protocol):
    plain = {"a": [1, 2.5, None, True], "ü": ("x", {"y": b"bytes"})}
    assert load(pickle.dumps(plain, protocol)) == plain


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_code_of_a_malicious_pickle_runs(load, tmp_path, protocol):
    marker = tmp_path / "it ran"
    touch = f"open({str(marker)!r}, 'w').close()"
    contents = [
        Malicious(os.system, f"touch '{marker}'"),
        Malicious(eval, touch),
        Malicious(exec, touch),
        Malicious(functools.partial(os.mkdir, marker)),
        Malicious(np.save, str(marker), [1]),
        Malicious(getattr, "text", "upper"),
        {"TRA": [Malicious(os.mkdir, str(marker))]},
        np.array([Malicious(os.mkdir, str(marker))], dtype=object),
        np.dtype,
        Malicious,
    ]
    for content in contents:
        with pytest.raises(UsageError, match=r"data\.pkl is not a pickle of plain data \(.*\); fetch it again\.$"):
            load(pickle.dumps(content, protocol)) if content is not np.dtype else load(b"cnumpy.core\nmultiarray\n.")
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        # Referring to a name would import its module; these must not be imported.
        b"cantigravity\nfly\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
        b"\x80\x04\x8c\x16numpy.core.multiarray\x8c\x19_reconstruct.__globals__\x93.",
        # A persistent id, an extension code, and an instance by its name.
        b"Psomething\n.",
        b"\x80\x02\x82\x01.",
        b"(ios\nsystem\n.",
        # Attributes set on a stand-in must not affect others.
        b"cnumpy\ndtype\n(N(dS'__setstate__'\nNstb0" + b"cnumpy\ndtype\n(S'O'\ntR.",
        # A buffer, and another encoding than that of Python 3's bytes.
        pickle.dumps(bytearray(b"x"), 5),
        b"c_codecs\nencode\n(Vx\nVutf8\ntR.",
        # Damaged in other ways.
        b"",
        b"no pickle",
        PYTHON_2_VECTORS[:-20],
        b"(dp0\n(lp1\nN" + b"s.",
    ],
)
def test_malformed_pickles_are_rejected(load, content):
    with pytest.raises(UsageError, match=r"data\.pkl is not a pickle of plain data"):
        load(content)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("state", [(1, (3,), "dtype", False, b"abc"), (1, (3,), None, False, [1, 2, 3])])
def test_arrays_of_other_types_are_rejected(state):
    with pytest.raises(TypeError, match="an array that is not numeric"):
        StoredArray().__setstate__(state)


def test_a_pickle_cannot_change_the_stand_ins_of_the_next(load):
    load(b"cnumpy\ndtype\n(N(dS'sleepy'\nI1\nstb.")
    assert not hasattr(load(b"cnumpy\ndtype\n."), "sleepy")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.pkl cannot be read"):
        load_plain_pickle(tmp_path / "gone.pkl")


def test_an_array_without_content_is_rejected(load):
    with pytest.raises(ValueError, match="without content"):
        load(b"cnumpy.core.multiarray\n_reconstruct\n)R.").to_array()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numeric_scalars_become_numbers_and_others_none(protocol):
    scalars = {"float": np.float64(1.5), "int": np.int32(-3), "date": np.datetime64("2021-11-08")}
    content = io.BytesIO(pickle.dumps(scalars, protocol))
    assert RestrictedUnpickler(content, NUMPY_SCALARS).load() == {"float": 1.5, "int": -3, "date": None}


def test_stand_ins_of_the_caller():
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return "outside" if value is os else None

    content = io.BytesIO()
    Pickler(content).dump([os, collections.OrderedDict(a=1), os.path.join])
    content.seek(0)
    stand_ins = {("collections", "OrderedDict"): PlainMapping, ("posixpath", "join"): "joined"}
    assert RestrictedUnpickler(content, stand_ins, lambda pid: f"from {pid}").load() == [
        "from outside",
        {"a": 1},
        "joined",
    ]
