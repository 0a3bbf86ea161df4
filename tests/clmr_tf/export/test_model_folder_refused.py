"""What is not a model folder is refused in one sentence, whatever else it is."""

import pytest

from clmr_tf.errors import UsageError
from clmr_tf.export.model_folder import read_manifest
from clmr_tf.inference.encoder import load_encoder
from tests.synthetic import write_corpus


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        '{"format_version": 99}',
        "[]",
        '{"format_version": 1}',
        '{"format_version": 1, "architecture": "SampleCNN", "training": {"step": 1}, "scores": {}}',
        '{"format_version": 1, "architecture": {"arguments": []}, "training": {"step": 1}, "scores": {}}',
        '{"format_version": 1, "architecture": {"arguments": {}}, "training": {}, "scores": {}}',
        '{"format_version": 1, "architecture": {"arguments": {}}, "training": {"step": 1}}',
    ],
)
def test_what_is_no_model_folder_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UsageError):
        load_encoder(tmp_path)
    with pytest.raises(UsageError):
        read_manifest(tmp_path)


def test_a_prepared_corpus_is_not_read_as_a_model(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", num_songs={"train": 1}, num_samples=64)
    for read in (load_encoder, read_manifest):
        with pytest.raises(UsageError, match=r"is not a model folder.*`architecture\.arguments`"):
            read(corpus.folder)


def test_what_is_neither_a_model_nor_a_run_is_told_what_to_give(tmp_path):
    with pytest.raises(
        UsageError, match=r"neither .* nor the folder of a run; give what `python -m clmr_tf\.export` or"
    ):
        load_encoder(tmp_path)
