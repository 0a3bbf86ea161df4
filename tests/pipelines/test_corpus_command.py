import contextlib
import dataclasses
import importlib
from pathlib import Path

import pytest

from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.errors import UsageError
from pipelines.preparation import published

NAMES = ("magnatagatune", "magnatagatune_clean", "msd", "gtzan", "fma", "mtg_jamendo", "billboard", "accompaniments")
# No licence lets anyone pass this music on, or others fetch it better.
WITHOUT_DOWNLOAD = {"msd", "mtg_jamendo", "billboard"}


@pytest.fixture(params=NAMES)
def pipeline(request):
    return importlib.import_module(f"pipelines.{request.param}")


def test_help_describes_sources_and_folder_layout(pipeline, capsys):
    with pytest.raises(SystemExit) as stop:
        pipeline.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert f"python -m pipelines.{pipeline.NAME}" in shown
    assert " Source: " in words
    assert f"Expected files, in {pipeline.DATA} or the folder given with --data:" in words
    for option in ("--data", "--out", "--max-skipped-fraction", "--sample-rate-hz", "--config"):
        assert option in words
    # The songs of one corpus are rendered, not read from a folder.
    assert ("--shard {None}|STR" in words) == (pipeline.NAME != "accompaniments")
    assert ("--download, --no-download" in words) == (pipeline.NAME not in WITHOUT_DOWNLOAD)


def test_missing_data_is_one_sentence_that_points_to_help(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf" is missing; `python -m pipelines\.{pipeline.NAME} --help` says where"):
        pipeline.main([])
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_are_refused(pipeline):
    with pytest.raises(UsageError, match=r"Unknown option `--sampel-rate-hz`; did you mean `--sample-rate-hz`\?"):
        pipeline.main(["--sampel-rate-hz", "16000"])
    with pytest.raises(UsageError, match="max_skipped_fraction cannot be 2"):
        pipeline.main(["--max-skipped-fraction", "2"])


@dataclasses.dataclass
class PreparedError(Exception):
    """Stands for a preparation, which is not what these tests are about."""

    destination: Path


@pytest.mark.parametrize("name", [*NAMES, "demo", "debian_games"])
@pytest.mark.parametrize(
    ("options", "rate_hz", "reader"),
    [
        ([], 22050, "prepared"),
        (["--sample-rate-hz", "16000"], 16000, "prepared"),
        (["--reader", "direct"], 22050, "direct"),
    ],
)
def test_a_corpus_is_prepared_where_other_commands_look_for_it(name, options, rate_hz, reader, monkeypatch):
    module = importlib.import_module(f"pipelines.{name}")

    def prepare_corpus(destination, *_):
        raise PreparedError(destination)

    if hasattr(module, "read_corpus"):
        monkeypatch.setattr(module.PIPELINE, "read_corpus", lambda *_: None)
        monkeypatch.setattr(published, "plan_published", lambda _, destination, *__: prepare_corpus(destination))
    else:
        monkeypatch.setattr(module, "prepare_corpus", prepare_corpus)
    with pytest.raises(PreparedError) as by_pipeline:
        module.main(options)
    with pytest.raises(PreparedError) as by_name:
        resolve_corpus(name, corpora=Path("corpora"), sample_rate_hz=rate_hz, clip_num_samples=1, reader=reader)
    assert by_pipeline.value.destination == by_name.value.destination


def test_paths_may_begin_with_the_home_folder(pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = []

    def prepare_corpus(destination, _options, data):
        folders.extend([data, destination])
        raise PreparedError(destination)

    if hasattr(pipeline, "read_corpus"):
        monkeypatch.setattr(pipeline.PIPELINE, "read_corpus", lambda _, data: folders.append(data))
        monkeypatch.setattr(published, "plan_published", lambda _, out, *__: folders.append(out))
        monkeypatch.setattr(published, "prepare_as_asked", lambda *_: None)
    else:
        monkeypatch.setattr(pipeline, "prepare_corpus", prepare_corpus)
    with contextlib.suppress(PreparedError):
        pipeline.main(["--data", "~/data", "--out", "~/corpus"])
    assert folders == [tmp_path / "data", tmp_path / "corpus"]
