"""The comparison of encoders: what it trains and scores, in which order, and that nothing is done twice."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import encoder_comparison, encoders
from clmr_tf.config.command_line import parse_command, to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.console import run_command
from clmr_tf.data.corpus import Corpus
from clmr_tf.data.tasks import CorpusTask, Label, write_task
from clmr_tf.errors import ClmrError
from clmr_tf.probe import retrieval
from clmr_tf.probe.__main__ import main as probe
from tests.synthetic import synthetic_corpus

CLIP = 59049
CLIPS_PER_SECOND = 32.0
BATCH = 4


def write_labels(corpus: Corpus, name: str, tags: tuple[str, ...], single_label: bool) -> None:
    """Item k has the tag k modulo the number of tags; without `single_label`, every sixth item has all of them."""
    items = {
        item.id: Label(item.split, tags if row % 6 == 5 and not single_label else (tags[row % len(tags)],))
        for row, item in enumerate(corpus.items)
    }
    write_task(CorpusTask(name, "By number.", tags, single_label, items), corpus.folder)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> tuple[Path, Path]:
    """Music with pseudo-tags and artists, and songs with tags and modes."""
    folder = tmp_path_factory.mktemp("corpora")
    num_songs = {"train": 12, "valid": 6, "test": 10}
    registers = ("low", "middle", "high")
    music = synthetic_corpus(folder / "music", num_songs=num_songs, num_samples=2 * CLIP, tag_names=registers)
    write_labels(music, "pseudo-tags", ("guitar", "drums"), single_label=False)
    write_labels(music, "artist", ("Ada", "Bo"), single_label=True)
    songs = synthetic_corpus(folder / "songs", num_songs=num_songs, num_samples=2 * CLIP, tag_names=registers)
    write_labels(songs, "mode", ("major", "minor"), single_label=True)
    return music.folder, songs.folder


@pytest.fixture
def arguments(corpora, tmp_path) -> list[str]:
    """Half a second of training: 24 steps by CLMR, and twice as many with labels, which have half as many views."""
    music, songs = map(str, corpora)
    sizes = ["--minutes", "0.1", "--width", "0.0625", "--batch-size", str(BATCH)]
    return [*sizes, "--corpus", music, "--labelled-corpus", songs, "--results", str(tmp_path / "results")]


class Recorder:
    """Stands for everything that takes long, and remembers what was asked for."""

    def __init__(self) -> None:
        self.trained: list[TrainConfig] = []
        self.measured: list[TrainConfig] = []
        self.probed = []
        self.exported = []
        self.stop_after = np.inf

    def run(self, module: str, *arguments: str) -> None:
        assert module == "clmr_tf.train"
        self._stop()
        config = parse_command(TrainConfig, arguments, program="train", description="")
        is_measurement = not config.workdir.is_relative_to(self.results)
        (self.measured if is_measurement else self.trained).append(config)
        config.workdir.mkdir(parents=True, exist_ok=True)
        for name, content in (("config.json", to_json(config)), ("run.json", {})):
            (config.workdir / name).write_text(json.dumps(content))
        # One that stops early, as all with labels do here.
        num_steps = config.steps if config.objective == "contrastive" else config.steps // 2
        steps = range(config.log_every, num_steps + 1, config.log_every)
        rows = "".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in steps)
        (config.workdir / "metrics.jsonl").write_text(rows)
        for step in range(config.checkpoint_every, num_steps + 1, config.checkpoint_every):
            (config.workdir / "checkpoints" / f"step-{step:09d}").mkdir(parents=True)

    def rates(self, run: Path) -> list[float]:
        return [CLIPS_PER_SECOND for _ in (run / "metrics.jsonl").read_text().splitlines()]

    def export(self, config) -> None:
        (checkpoint, *_) = sorted((config.model / "checkpoints").glob("*"), reverse=True)
        self.exported.append((config.out.name, config.checkpoint, int(checkpoint.name.removeprefix("step-"))))

    def probe(self, config):
        self._stop()
        self.probed.append(config)
        names = (
            "average_precision",
            "accuracy",
            "chain/recall_at_1",
            "clean/recall_at_1",
            "chain/mean_reciprocal_rank",
        )
        scores = {name: {"value": 0.5, "resampled": [0.25, 0.75]} for name in names}
        paired = {"examples": f"{config.corpus} {config.task} {config.preset}", "scores": scores}
        return {"single_label": config.task in ("artist", "mode"), "paired": paired}, None

    def _stop(self) -> None:
        self.stop_after -= 1
        if self.stop_after < 0:
            raise KeyboardInterrupt


@pytest.fixture
def recorder(monkeypatch, tmp_path) -> Recorder:
    recorder = Recorder()
    recorder.results = tmp_path / "results"
    monkeypatch.setattr(encoder_comparison, "run_module", recorder.run)
    monkeypatch.setattr(encoder_comparison, "clip_rates", recorder.rates)
    monkeypatch.setattr(encoder_comparison, "export", recorder.export)
    monkeypatch.setattr(encoder_comparison, "probe_model", recorder.probe)
    monkeypatch.setattr(encoder_comparison, "cpu_has_bfloat16", lambda: False)
    return recorder


def test_everything_is_trained_and_scored_once_and_the_most_informative_comes_first(recorder, arguments, capsys):
    command = [*arguments, "--seeds", "2", "--encoders", "mel_cnn", "tune"]
    encoders.main(command)
    table = json.loads(capsys.readouterr().out)
    supervised = [
        f"{encoder}-supervised-{labels}-{seed}"
        for seed in (1, 2)
        for fraction in ("1", "0.1")
        for encoder in ("mel_cnn", "tune")
        for labels in (f"pseudo-tags-{fraction}", f"songs-{fraction}")
    ]
    clmr = [f"{encoder}-clmr-{seed}" for seed in (1, 2) for encoder in ("mel_cnn", "tune")]
    assert [config.workdir.name for config in recorder.trained] == clmr + supervised
    # One measurement for each encoder and objective.
    assert [(config.encoder, config.objective) for config in recorder.measured] == [
        (encoder, objective) for encoder in ("mel_cnn", "tune") for objective in ("contrastive", "supervised")
    ]
    for config in recorder.trained:
        # 6 seconds of 32 clips: 8 in a step by CLMR, and 4 with labels.
        assert config.steps == (24 if config.objective == "contrastive" else 48)
        assert (config.width, config.batch_size, config.precision) == (0.0625, BATCH, "float32")
    first, other = recorder.trained[0], recorder.trained[4]
    assert (first.learning_rate, first.temperature, first.schedule, first.warmup_steps) == (1e-3, 0.1, "cosine", 1)
    assert (first.checkpoint_every, first.keep_checkpoints) == (3, 8)
    assert (other.task, other.labels, Path(other.corpus).name, other.best_metric) == (
        *("pseudo-tags", 1.0, "music", "validation_loss"),
    )
    second = recorder.trained[-1]
    assert (second.task, second.labels, second.seed, Path(second.corpus).name) == (None, 0.1, 2, "songs")

    # Two encoders by two seeds, untrained, mel and musicnn on all five columns.
    whole = [config for config in recorder.probed if config.labels == 1 and config.head == "linear"]
    steps = [("mel_cnn-clmr-1-step-3", "newest", 3), ("mel_cnn-clmr-1-step-6", "newest", 6)]
    assert set(steps) <= set(recorder.exported) and ("mel_cnn-clmr-1-step-12", "newest", 12) in recorder.exported
    assert ("mel_cnn-clmr-1", "newest", 24) in recorder.exported
    assert {checkpoint for name, checkpoint, _ in recorder.exported if "supervised" in name} == {"best"}
    # Three earlier checkpoints on two columns, and the features of two supervised networks of each seed on two.
    assert len(whole) == 8 * 5 + 2 * 3 * 2 + 2 * 2 * 2
    # Two columns, four fractions and five draws.
    few = [config for config in recorder.probed if config.labels < 1]
    assert len(few) == 8 * 2 * 4 * 5
    assert {config.labels_seed for config in few} == {1, 2, 3, 4, 5} and {config.labels for config in few} == {
        *(0.01, 0.05, 0.1, 0.25),
    }
    assert sum(config.head == "own" for config in recorder.probed) == len(supervised)
    assert (
        not any(config.baselines for config in recorder.probed)
        and len({config.seed for config in recorder.probed}) == 1
    )
    assert len({dataclasses.astuple(config) for config in recorder.probed}) == len(recorder.probed)
    # The main scores of all encoders come before the first with few labels, and those before the next seed.
    places = [(config.model.name, config.features, config.labels < 1) for config in recorder.probed]
    assert places.index(("tune-clmr-1", "model", False)) < places.index(("mel_cnn-clmr-1", "model", True))
    assert places.index(("tune-clmr-1", "model", True)) < places.index(("mel_cnn-clmr-2", "model", False))

    clmr_row = next(row for row in table["rows"] if (row["encoder"], row["training"]) == ("mel_cnn", "clmr"))
    # 24 steps of 8 clips; the supervised ones ended after half of their 48 steps of 4.
    assert clmr_row["minutes"] == pytest.approx([0.1, 0.1]) and clmr_row["steps"] == [24, 24]
    other_row = next(row for row in table["rows"] if (row["encoder"], row["training"]) == ("mel_cnn", "supervised"))
    assert other_row["minutes"] == pytest.approx([0.05, 0.05]) and other_row["steps"] == [24, 24]
    assert {row["training"] for row in table["rows"]} == {"untrained", "clmr", "supervised", "mel", "musicnn"}

    done = len(recorder.trained), len(recorder.probed), len(recorder.measured)
    encoders.main(command)
    assert (len(recorder.trained), len(recorder.probed), len(recorder.measured)) == done
    assert json.loads(capsys.readouterr().out) == table
    encoders.main(["--table", "--results", str(recorder.results)])
    assert json.loads(capsys.readouterr().out) == table


@pytest.mark.soak
def test_an_interrupted_comparison_does_the_rest(recorder, arguments, capsys):
    command = [*arguments, "--encoders", "mel_cnn", "--supervised-fractions", "1"]
    codes = []
    while not codes or codes[-1] == 130:
        recorder.stop_after = 25
        codes.append(run_command(encoders.main, command))
    assert len(codes) > 5 and codes[-1] == 0
    assert len({dataclasses.astuple(config) for config in recorder.probed}) == len(recorder.probed)
    # The speed was measured once, so all starts had the same lengths.
    assert [config.objective for config in recorder.measured] == ["contrastive", "supervised"]
    assert [(config.workdir.name, config.steps) for config in recorder.trained] == [
        ("mel_cnn-clmr-1", 24),
        *((f"mel_cnn-supervised-{column}-1-1", 48) for column in ("pseudo-tags", "songs")),
    ]
    capsys.readouterr()


def test_features_that_cannot_be_fetched_are_left_out(recorder, arguments, monkeypatch, capsys):
    def probe_without_musicnn(config):
        if "musicnn" in config.features:
            raise ClmrError("The model cannot be fetched.")
        return recorder.probe(config)

    monkeypatch.setattr(encoder_comparison, "probe_model", probe_without_musicnn)
    assert run_command(encoders.main, [*arguments, "--encoders", "mel_cnn"]) == 0
    output = capsys.readouterr()
    assert "musicnn is left out: The model cannot be fetched." in output.err
    assert [row["training"] for row in json.loads(output.out)["rows"]] == ["untrained", "clmr", "supervised", "mel"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--minutes", "0"], "--minutes must be above 0 and at most 100000; received 0."),
        (["--seeds", "0"], "--seeds must be from 1 to 1000; received 0."),
        (["--width", "9"], "--width must be above 0 and at most 8; received 9."),
        (["--supervised-fractions", "0.5", "2"], "--supervised-fractions must be above 0 and at most 1; received 2."),
        (["--corpus", "nowhere"], "There is no prepared corpus in nowhere; make one, for example with python -m"),
        (["--labelled-corpus", "nowhere"], "There is no prepared corpus in nowhere; make one, for example with python"),
        (["--table", "--results", "nowhere"], "nowhere holds no comparison of encoders, because nowhere/plan.json"),
    ],
)
def test_wrong_options_are_one_sentence(recorder, arguments, tmp_path, capsys, changes, sentence):
    assert run_command(encoders.main, [*arguments, *changes]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sentence}") and error.count("\n") == 1
    assert recorder.trained == [] and not (tmp_path / "results").exists()


def test_other_settings_other_music_and_missing_tags_are_one_sentence(recorder, arguments, corpora, tmp_path, capsys):
    recorder.stop_after = 3
    assert run_command(encoders.main, arguments) == 130
    capsys.readouterr()

    def refused(*changes: str) -> str:
        assert run_command(encoders.main, [*arguments, *changes]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "results holds a comparison with minutes 0.1 and not 0.2; use the same settings" in refused(
        "--minutes", "0.2"
    )
    bfloat16 = refused("--precision", "mixed_bfloat16")
    assert "with precision fastest and not mixed_bfloat16; use" in bfloat16
    music, songs = corpora
    assert "with corpus music and not songs" in refused("--corpus", str(_with_pseudo_tags(songs, tmp_path)))
    changed = shutil.copytree(music, tmp_path / "music")
    (changed / "tasks" / "pseudo-tags.parquet").unlink()
    assert "music has no pseudo-tags; run python -m pipelines.pseudo_tags" in refused("--corpus", str(changed))
    write_labels(Corpus.open(changed), "pseudo-tags", ("guitar", "flute"), single_label=False)
    assert "with fingerprints" in refused("--corpus", str(changed))
    untagged = synthetic_corpus(tmp_path / "untagged", num_songs={"train": 2}).folder
    assert "untagged has no tags; give --labelled-corpus one" in refused("--labelled-corpus", str(untagged))


def _with_pseudo_tags(corpus: Path, folder: Path) -> Path:
    copy = shutil.copytree(corpus, folder / "songs")
    write_labels(Corpus.open(copy), "pseudo-tags", ("guitar", "drums"), single_label=False)
    return copy


def test_unknown_encoder_and_two_benchmarks_at_once_are_refused(capsys):
    for arguments, words in (
        (["--minutes", "1", "--encoders", "vgg"], "invalid choice: 'vgg'"),
        (["--widths", "1", "0"], "--widths above 0 and at most 8"),
        (["--minutes", "1", "--speed"], "--speed and --minutes are two benchmarks; give one of them"),
    ):
        with pytest.raises(SystemExit, match="2"):
            encoders.main(arguments)
        assert words in capsys.readouterr().err


@pytest.mark.soak
def test_a_real_comparison_that_is_interrupted(arguments, corpora, tmp_path, monkeypatch, capfd):
    """Real trainings and probes; the scores equal those of the commands, and of the checkpoints that are said."""
    monkeypatch.setattr(encoder_comparison, "LABEL_FRACTIONS", (0.5,))
    monkeypatch.setattr(retrieval, "MIN_NUM_QUERIES", 10)
    command = [*arguments, "--minutes", "0.02", "--encoders", "mel_cnn", "--other-features", "mel"]
    command += ["--supervised-fractions", "0.5", "--draws", "2"]
    real_probe, calls = encoder_comparison.probe_model, []

    def interrupted(config):
        calls.append(config)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real_probe(config)

    monkeypatch.setattr(encoder_comparison, "probe_model", interrupted)
    assert run_command(encoders.main, command) == 130
    results = tmp_path / "results"
    before = {path: path.stat().st_mtime_ns for path in results.glob("*/*/*.json")}
    assert run_command(encoders.main, command) == 0
    output = capfd.readouterr()
    # The scores before the interruption, the run and its model were not made again.
    assert before == {path: path.stat().st_mtime_ns for path in before}
    table = json.loads(output.out)
    rows = {row["training"]: row for row in table["rows"]}
    assert 0.001 < rows["clmr"]["minutes"][0] < 0.5
    assert rows["clmr"]["steps"][0] == table["plan"]["mel_cnn contrastive"]["steps"]

    out = tmp_path / "again.json"
    for model, options, expected in (
        ("mel_cnn-clmr-1", [], rows["clmr"]["scores"]["pseudo-tags"]),
        ("mel_cnn-clmr-1", ["--features", "untrained"], rows["untrained"]["scores"]["pseudo-tags"]),
    ):
        where = ["--model", str(results / "models" / model), "--corpus", str(corpora[0]), "--task", "pseudo-tags"]
        probe([*where, *options, "--out", str(out), "--features-cache", str(tmp_path / "features")])
        score = json.loads(out.read_text())["scores"]["test"]["average_precision"]["over_tags"]
        assert (score["mean"], score["interval"]) == (
            pytest.approx(expected["mean"]),
            pytest.approx(expected["interval"], abs=1e-6),
        )
    steps = [point["steps"] for point in table["curves"] if point["column"] == "pseudo-tags"]
    num_steps = rows["clmr"]["steps"][0]
    assert steps == [0, num_steps // 8, num_steps // 4, num_steps // 2, num_steps]
    for step in steps[1:-1]:
        manifest = json.loads((results / "models" / f"mel_cnn-clmr-1-step-{step}" / "manifest.json").read_text())
        assert manifest["training"]["step"] == step
    # Two columns, CLMR with the draw that the supervised network had.
    supervised = [one for one in table["differences"] if one["subtrahend"]["training"] == "supervised"]
    assert [(one["column"], one["labels"], one["num_results"]) for one in supervised] == [
        ("pseudo-tags", 0.5, 1),
        ("songs", 0.5, 1),
    ]
    assert len(re.findall(r"^\| mel_cnn \| CLMR \|", (results / "table.md").read_text(), re.MULTILINE)) == 3
