import os
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.data.labels import MAGNATAGATUNE_TAGS
from clmr_tf.errors import ClmrError, UsageError
from pipelines.musicnn import WHEEL, WINDOW_NUM_SAMPLES, build_tagger, fetch_wheel, log_mel, read_weights
from tests.pipelines.musicnn_inputs import music, noise_weights

# Made by the package itself and by librosa, see tests/golden/make_musicnn.py.
GOLDEN = Path(__file__).parents[1] / "golden" / "reference_musicnn.npz"
# Where the package's file is, the network is tested with its weights, too.
DOWNLOADED = Path(os.environ.get("MUSICNN_WHEEL", Path(__file__).parents[2] / "corpora/downloads/musicnn" / WHEEL))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def windows():
    """The package's patches: its spectrogram is centred, with zeros before the first sample."""
    audio = np.pad(music(), 256)
    return np.stack([audio[start : start + WINDOW_NUM_SAMPLES] for start in range(0, 3 * 187 * 256, 187 * 256)])


def test_the_spectrogram_is_that_of_librosa(golden):
    received = log_mel(windows())[:, ::17]
    assert received.dtype == np.float32
    assert golden["log_mel"].std() > 0.3
    np.testing.assert_allclose(received, golden["log_mel"], atol=1e-5)
    with pytest.raises(ValueError, match=r"windows must be \[n, 512 or more\], received \[1, 511\]"):
        log_mel(np.zeros((1, 511), np.float32))


def test_the_network_is_that_of_the_package(golden):
    shapes = zip(golden["weight_names"].tolist(), golden["weight_shapes"].tolist(), strict=True)
    weights = noise_weights({name: tuple(map(int, shape.split(","))) for name, shape in shapes})
    assert sum(value.size for value in weights.values()) == 792_079
    tagger = build_tagger(weights)
    assert tagger.count_params() == 792_079
    expected = golden["probabilities_of_noise"]
    assert 0.1 < expected.std() < 0.5
    np.testing.assert_allclose(tagger.predict_on_batch(log_mel(windows())), expected, atol=2e-5)


@pytest.mark.skipif(not DOWNLOADED.is_file(), reason="musicnn is not downloaded; see pipelines/pseudo_tags.py")
def test_its_predictions_equal_those_of_the_package(golden):
    received = build_tagger(read_weights(DOWNLOADED)).predict_on_batch(log_mel(windows()))
    np.testing.assert_allclose(received, golden["probabilities"], atol=2e-5)
    assert len(MAGNATAGATUNE_TAGS) == received.shape[1]


def test_another_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "gone.whl", GOLDEN):
        with pytest.raises(UsageError, match=r"is not the file musicnn-0\.1\.0-py3-none-any\.whl"):
            read_weights(path)


def test_an_existing_wheel_is_used_and_a_pip_error_is_quoted(tmp_path, monkeypatch):
    (tmp_path / WHEEL).write_bytes(b"there")
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert fetch_wheel(tmp_path) == tmp_path / WHEEL
    with pytest.raises(ClmrError, match=r"pip could not fetch musicnn 0\.1\.0 \(no message\); give its wheel"):
        fetch_wheel(tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []
