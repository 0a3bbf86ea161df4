"""The files for other viewers, read by what those viewers read them with."""

import shutil

import numpy as np
import pytest
from google.protobuf import text_format
from pyarrow import parquet
from sklearn.metrics.pairwise import cosine_similarity
from tensorboard.plugins.projector import ProjectorConfig

from clmr_tf import teach
from clmr_tf.browse import __main__ as browse
from clmr_tf.config.command_line import INCLUDED_MODEL
from clmr_tf.export.model_folder import read_manifest, recorded_hash
from clmr_tf.inference.library import Library
from clmr_tf.inference.teaching import Teacher
from tests.clmr_tf.taught_library import write_table


def test_the_files_have_map_tags_neighbours_and_vectors(tmp_path):
    table, out = tmp_path / "table", tmp_path / "viewers"
    write_table(tmp_path / "music", table)
    teach.main([str(table), "--tag", "bright", "--yes", str(tmp_path / "music/brass/1.wav")])
    browse.main([str(table), "--write-for-viewers", str(out)])
    library = Library(table)
    songs = parquet.read_table(out / "songs.parquet").to_pydict()
    assert songs["path"] == list(library.paths) and songs["folder"][7] == "harp" and songs["name"][7] == "1"
    with np.load(tmp_path / "table.map.npz") as layout:
        np.testing.assert_array_equal(np.transpose([songs["x"], songs["y"]]), layout["tsne"])
    teacher = Teacher(library)
    np.testing.assert_array_equal(songs["tag: bright"], teacher.probabilities(teacher.require("bright")))
    cosines = cosine_similarity(library.means)
    for row, neighbours in enumerate(songs["neighbors"]):
        cosines[row, row] = -2
        assert neighbours["ids"] == np.argsort(-cosines[row])[:10].tolist()
        assert neighbours["distances"] == pytest.approx((1 - np.sort(cosines[row])[::-1][:10]).tolist(), abs=1e-5)
    config = text_format.Parse((out / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    np.testing.assert_allclose(np.loadtxt(out / embedding.tensor_path, delimiter="\t"), library.means, rtol=1e-5)
    rows = (out / embedding.metadata_path).read_text().splitlines()
    assert rows[0] == "name\tfolder\tpath" and [row.split("\t")[2] for row in rows[1:]] == list(library.paths)


def test_a_table_in_8_bit_integers_gets_the_tags_of_its_model(tmp_path):
    write_table(tmp_path / "music", tmp_path / "table", recorded_hash(INCLUDED_MODEL, "litert-int8"), num_songs=2)
    browse.main([str(tmp_path / "table"), "--write-for-viewers", str(tmp_path)])
    columns = parquet.read_schema(tmp_path / "songs.parquet").names
    assert [name[5:] for name in columns if name.startswith("tag: ")] == read_manifest(INCLUDED_MODEL)["tag_names"]


def test_why_there_are_no_tags_of_a_model_is_said(tmp_path, capsys):
    # Without a head.
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(INCLUDED_MODEL / "manifest.json", model)
    write_table(tmp_path / "music", tmp_path / "table", recorded_hash(INCLUDED_MODEL, "auto"), num_songs=2)
    write_table(tmp_path / "more music", tmp_path / "other", num_songs=2)
    for arguments, sentence in (
        (["table", "--model", str(model)], f"The model {model} has no head, so there are only taught tags."),
        (["other"], "other was made with another model than the included one; give it with --model for its tags."),
    ):
        browse.main([str(tmp_path / arguments[0]), *arguments[1:], "--write-for-viewers", str(tmp_path / "viewers")])
        assert capsys.readouterr().err.removeprefix(f"{tmp_path}/") == f"{sentence}\n"
        columns = parquet.read_schema(tmp_path / "viewers" / "songs.parquet").names
        assert not any(name.startswith("tag: ") for name in columns)
