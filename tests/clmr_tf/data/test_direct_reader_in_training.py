"""The direct reader in training: in parallel, in batches, with missing files, without tensorflow-io."""

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from clmr_tf.audio.decoding import UnreadableAudioError
from clmr_tf.data import direct_reader
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.crops import pair_dataset
from clmr_tf.data.direct_reader import direct_crop_reader, read_crop
from clmr_tf.data.index import Item
from clmr_tf.errors import UsageError
from tests.clmr_tf.inference.song_files import FILES, assert_same, prepared, write_songs
from tests.synthetic import save_corpus

CROP = 20_000
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("music"))


def test_parallel_maps_never_mix_up_files(music):
    generator = np.random.default_rng(4)
    names = generator.choice(list(FILES), 300)
    offsets = generator.integers(0, 60_000, 300)
    paths = tf.data.Dataset.from_tensor_slices([str(music / name) for name in names])
    crops = tf.data.Dataset.zip(paths, tf.data.Dataset.from_tensor_slices(offsets)).map(
        lambda path, offset: read_crop(path, offset, num_samples=2000, sample_rate_hz=22050),
        num_parallel_calls=16,
    )
    assert crops.element_spec.shape == [2000]
    songs = {name: prepared(music / name) for name in FILES}
    expected = [songs[name][offset : offset + 2000] for name, offset in zip(names, offsets, strict=True)]
    worst = []

    def compare():
        received = np.stack(list(crops.as_numpy_iterator()))
        # Without the first samples, where soxr deviates from band-limited interpolation.
        worst.append(np.abs(received - np.stack(expected))[:, 8:].max())

    # Training and validation read at the same time, each with threads of its own.
    threads = [threading.Thread(target=compare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 2
    assert max(worst) < 5e-3


def test_an_unreadable_file_fails_alone(music, tmp_path):
    (tmp_path / "text.mp3").write_bytes(b"no music here " * 1000)
    good, bad = str(music / "22k.ogg"), [str(tmp_path / "text.mp3"), str(tmp_path / "missing.mp3")]
    paths = [good, *bad] * 100
    crops = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: read_crop(path, 5000, num_samples=2000, sample_rate_hz=22050), num_parallel_calls=8
    )
    received = list(crops.ignore_errors().as_numpy_iterator())
    assert len(received) == 100
    expected = prepared(music / "22k.ogg")[5000:7000]
    np.testing.assert_allclose(np.stack(received), np.stack([expected] * 100), atol=1e-5)
    # Without tensorflow-io, the error of the decoder itself, if it is not in a graph.
    with pytest.raises((tf.errors.OpError, UnreadableAudioError)):
        read_crop(bad[0], 0, num_samples=2000, sample_rate_hz=22050)


def direct_corpus(folder: Path, paths: list[Path], sample_rate_hz: int = 22050) -> Corpus:
    items = [
        Item(
            id=path.name,
            song_id=path.name,
            source=path.name,
            split="train",
            tags=(),
            file=str(path),
            offset_samples=0,
            num_samples=len(prepared(path, sample_rate_hz)),
            digest="0" * 16,
            source_rate_hz=soundfile.info(path).samplerate,
            source_num_channels=soundfile.info(path).channels,
            source_num_bytes=path.stat().st_size,
        )
        for path in paths
    ]
    return save_corpus(folder, items, None, sample_rate_hz=sample_rate_hz)


def as_pcm(corpus: Corpus, folder: Path) -> Corpus:
    """The same corpus with the audio prepared."""
    pcm = [np.rint(np.clip(prepared(item.file), -1, 1 - 2**-15) * 32768).astype("<i2") for item in corpus.items]
    begins = np.cumsum([0, *(len(samples) for samples in pcm)])
    items = [
        dataclasses.replace(item, file="", offset_samples=int(begin))
        for item, begin in zip(corpus.items, begins, strict=False)
    ]
    return save_corpus(folder, items, np.concatenate(pcm))


def test_batches_equal_those_from_prepared_audio(music, tmp_path):
    direct = direct_corpus(tmp_path / "direct", [music / name for name in FILES])
    pcm = as_pcm(direct, tmp_path / "pcm")
    options = {"batch_size": 5, "clip_num_samples": CROP, "seed": 11}
    batches = zip(
        pair_dataset(direct, "train", **options).take(6),
        pair_dataset(pcm, "train", **options).take(6),
        strict=True,
    )
    for from_files, from_pcm in batches:
        np.testing.assert_array_equal(from_files["item"], from_pcm["item"])
        np.testing.assert_array_equal(from_files["seeds"], from_pcm["seeds"])
        for crop, expected in zip(
            from_files["clips"].numpy().reshape(-1, CROP), from_pcm["clips"].numpy().reshape(-1, CROP), strict=True
        ):
            assert_same(crop, expected)


def test_a_missing_file_is_reported_before_training(music, tmp_path):
    gone = tmp_path / "gone.ogg"
    gone.write_bytes((music / "22k.ogg").read_bytes())
    corpus = direct_corpus(tmp_path / "corpus", [music / "22k.ogg", gone])
    gone.unlink()
    with pytest.raises(UsageError, match=r"1 of 2 files .* missing or have changed, such as '.*gone\.ogg'"):
        direct_crop_reader(corpus, corpus.rows_of("train"), CROP)


def test_a_file_of_another_size_is_reported_before_training(music, tmp_path):
    path = tmp_path / "song.ogg"
    path.write_bytes((music / "22k.ogg").read_bytes())
    corpus = direct_corpus(tmp_path / "corpus", [path])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="missing or have changed"):
        direct_crop_reader(corpus, corpus.rows_of("train"), CROP)


def test_without_tensorflow_io_the_crops_are_the_same(music, monkeypatch):
    monkeypatch.setattr(direct_reader, "tensorflow_io_decoders", lambda: None)
    for name in FILES:
        expected = prepared(music / name)
        for offset in (0, 1, 12_345, 40_001):
            crop = read_crop(str(music / name), offset, num_samples=CROP, sample_rate_hz=22050)
            assert_same(crop.numpy()[64:], expected[offset + 64 : offset + CROP])


def test_without_tensorflow_io_there_are_no_decoders(monkeypatch):
    for name in ("tensorflow_io", "tensorflow_io.python", "tensorflow_io.python.ops"):
        monkeypatch.setitem(sys.modules, name, None)
    assert direct_reader.tensorflow_io_decoders.__wrapped__() is None


@pytest.mark.soak
def test_a_library_for_another_tensorflow_is_not_used(tmp_path):
    tensorflow_io = pytest.importorskip("tensorflow_io", reason="there is none for this Python", exc_type=ImportError)
    # A copy of the installed package with a library that cannot be loaded.
    installed = Path(tensorflow_io.__file__).parent
    for path in installed.rglob("*"):
        copied = tmp_path / "tensorflow_io" / path.relative_to(installed)
        if path.suffix in (".so", ".py"):
            copied.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".so":
                copied.write_bytes(b"built for another TensorFlow")
            else:
                copied.symlink_to(path)
    script = (
        "import sys\n"
        "from clmr_tf.data.direct_reader import tensorflow_io_decoders\n"
        "assert not any(name.startswith('tensorflow_io') for name in sys.modules), 'imported too early'\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "assert tensorflow_io_decoders() is None"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
