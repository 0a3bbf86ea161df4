"""The log of a run, read back from its files."""

import json
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from clmr_tf.errors import ClmrError
from clmr_tf.train import logs
from clmr_tf.train.logs import RunLog


def open_log(tmp_path, last_kept_step=-1, **options) -> RunLog:
    return RunLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", last_kept_step, **options)


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def curve(tmp_path, name):
    events = EventAccumulator(str(tmp_path / "tensorboard"), tensor_size_guidance={"scalars": 0, "audio": 0})
    events.Reload()
    return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(name)]


def test_scalars_are_written_to_jsonl_and_tensorboard(tmp_path):
    log = open_log(tmp_path)
    log.scalars(10, {"loss": 4.5, "learning_rate": 0.1})
    log.scalars(20, {"loss": 4.25, "learning_rate": 0.1})
    log.close()
    assert rows(tmp_path)[1] == {"step": 20, "loss": 4.25, "learning_rate": 0.1}
    assert curve(tmp_path, "training/loss") == [(10, 4.5), (20, 4.25)]


def test_curves_of_a_saved_step_reach_the_disk_before_its_row(tmp_path, monkeypatch):
    """A run killed in between finds no row and writes both again; in the other order a point would be lost."""
    log, row_of, found = open_log(tmp_path), logs.row_of, []

    def read_curve_first(step, values):
        found.append(curve(tmp_path, "training/loss"))
        return row_of(step, values)

    monkeypatch.setattr(logs, "row_of", read_curve_first)
    log.scalars(10, {"loss": 4.5}, durable=True)
    log.close()
    assert found == [[(10, 4.5)]]


def test_resume_discards_rows_after_the_checkpoint(tmp_path):
    log = open_log(tmp_path)
    for step in (10, 20, 30):
        log.scalars(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    # TensorBoard reads event files in the order of their names, which start with the time in seconds.
    time.sleep(1.1)
    log = open_log(tmp_path, last_kept_step=20)
    log.scalars(30, {"loss": 31.0})
    log.close()
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(10, 10.0), (20, 20.0), (30, 31.0)]
    assert curve(tmp_path, "training/loss") == [(10, 10.0), (20, 20.0), (30, 31.0)]


def test_restart_from_step_0_discards_the_earlier_log(tmp_path):
    for words in ("begun", "begun again"):
        log = open_log(tmp_path)
        log.text(0, "configuration", words)
        log.scalars(1, {"loss": 1.0})
        log.close()
        time.sleep(1.1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    texts = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors("configuration")]
    assert [text.item().decode() for text in texts] == ["begun again"]
    assert [row["step"] for row in rows(tmp_path)] == [1] and curve(tmp_path, "training/loss") == [(1, 1.0)]


def test_logged_audio_decodes_to_the_same_samples(tmp_path):
    log = open_log(tmp_path)
    waveforms = np.sin(2 * np.pi * 441 * np.arange(22050) / 22050).astype(np.float32)[None] * [[0.5], [0.25]]
    log.audio(0, "views", waveforms.astype(np.float32), 22050)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), tensor_size_guidance={"scalars": 0, "audio": 0})
    events.Reload()
    encoded = tf.make_ndarray(events.Tensors("views")[0].tensor_proto)

    for wav, waveform in zip(encoded, waveforms, strict=True):
        audio, rate = tf.audio.decode_wav(wav)
        assert rate.numpy() == 22050
        np.testing.assert_allclose(audio.numpy()[:, 0], waveform, atol=1e-4)


def test_embeddings_are_written_with_metadata(tmp_path):
    log = open_log(tmp_path)
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    metadata = [{"item": f"a\t{n}", "tags": ""} for n in range(3)]
    log.embeddings(vectors, metadata)
    log.close()
    folder = tmp_path / "tensorboard"
    config = (folder / "projector_config.pbtxt").read_text()
    tensors = np.loadtxt(folder / "embeddings.tsv", delimiter="\t")
    np.testing.assert_allclose(tensors, vectors, rtol=1e-4)
    assert (folder / "embeddings_metadata.tsv").read_text() == "item\ttags\na 0\t-\na 1\t-\na 2\t-\n"
    assert 'tensor_path: "embeddings.tsv"' in config and 'metadata_path: "embeddings_metadata.tsv"' in config


@pytest.mark.parametrize(("value", "written"), [(float("nan"), None), (float("-inf"), None), (1e30, 1e30)])
def test_nonfinite_values_are_written_as_null(tmp_path, value, written):
    log = open_log(tmp_path)
    log.scalars(1, {"loss": value})
    log.close()
    assert rows(tmp_path)[0]["loss"] == written


def test_damaged_row_before_other_rows_is_rejected(tmp_path):
    for damaged in ("{", "[1]", "{}"):
        (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{damaged}\n{{"step": 3}}\n')
        with pytest.raises(ClmrError, match=r"Line 2 of the 3 lines of .* is damaged"):
            open_log(tmp_path, last_kept_step=3)
        assert (tmp_path / "metrics.jsonl").read_text().endswith('{"step": 3}\n')
