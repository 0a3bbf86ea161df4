"""The commands of a recipe, which of them are done, and measured scores beside published ones."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import pytest

from clmr_tf.config.command_line import from_json, parse_command, to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import UsageError
from clmr_tf.export.__main__ import ExportConfig
from clmr_tf.probe.settings import ProbeConfig
from clmr_tf.recipes.__main__ import main
from clmr_tf.recipes.recipe import RECIPES, read_recipe
from clmr_tf.recipes.run import RecipeRun, options_of
from tests.clmr_tf.recipes.prepared import prepare_corpora
from tests.synthetic import synthetic_corpus

CONFIG_TYPES = {"clmr_tf.train": TrainConfig, "clmr_tf.export": ExportConfig, "clmr_tf.probe": ProbeConfig}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    return prepare_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture
def run_of(corpora, tmp_path):
    def make(name: str, corpora: Path = corpora) -> RecipeRun:
        recipe = read_recipe(RECIPES, name)
        return RecipeRun(recipe, corpora, *(tmp_path / folder for folder in ("runs", "savedmodels", "features")))

    return make


def parse(line: str):
    """The settings that the command of a printed line gets."""
    python, dash_m, module, *arguments = shlex.split(line)
    assert (python, dash_m) == ("python", "-m")
    return parse_command(CONFIG_TYPES[module], arguments, program=module, description="")


@pytest.mark.parametrize(
    "name", ["mtt-sweep-delay-0.4", "transfer-msd", "mtt-rate-8000", "labels-mtt-supervised-1", "mtt-untrained"]
)
def test_the_commands_have_the_settings_of_the_recipe(name, corpora, tmp_path, capsys):
    runs, models = tmp_path / "runs", tmp_path / "models"
    main(["run", name, "--dry-run", "--corpora", f"{corpora}", "--runs", f"{runs}", "--savedmodels", f"{models}"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "All data were found. Nothing was run."
    train, export, *probes = map(parse, lines)

    recipe = read_recipe(RECIPES, name)
    suffix = "-8000hz" if "rate" in name else ""
    expected = from_json(TrainConfig, dict(recipe.train), where="")
    corpus = str(corpora / (recipe.train["corpus"] + suffix))
    assert train == dataclasses.replace(expected, corpus=corpus, workdir=runs / recipe.base)
    assert export == ExportConfig(model=runs / recipe.base, checkpoint=recipe.checkpoint, out=models / recipe.base)
    for probe, written in zip(probes, recipe.probes, strict=True):
        corpus = str(corpora / (written.settings["corpus"] + suffix))
        assert probe == dataclasses.replace(written.config, corpus=corpus, model=export.out, out=probe.out)
        # An export of new weights removes results by this name.
        assert probe.out.parent == export.out and probe.out.match("evaluation-*.json")
    assert len({probe.out for probe in probes}) == len(probes)
    assert not runs.exists() and not models.exists()


def test_options_are_parsed_back_to_the_settings():
    settings = {
        "learning_rate": 3e-4,
        "jit": True,
        "two_passes": False,
        "augmentation": "only-pitch",
        "augmentation_changes": ["pitch.cents=[-500, 500]", "pitch.probability=0.4"],
        "workdir": Path("runs/a b"),
    }
    config = parse_command(TrainConfig, options_of({**settings, "decay_steps": None}), program="train", description="")
    settings["augmentation_changes"] = tuple(settings["augmentation_changes"])
    assert {name: getattr(config, name) for name in settings} == settings
    assert options_of({"augmentation_changes": []}) == []


def test_a_missing_or_different_corpus_is_refused_with_its_pipeline(run_of, corpora, tmp_path):
    out = shlex.quote(str(tmp_path / "fma"))
    with pytest.raises(UsageError, match=rf"`python -m pipelines\.fma --out {out}`"):
        run_of("transfer-fma", tmp_path).require_corpora()
    with pytest.raises(
        UsageError, match=r"pipelines\.magnatagatune --sample-rate-hz 8000 --out \S*magnatagatune-8000hz"
    ):
        run_of("mtt-rate-8000", tmp_path).require_corpora()
    # The corpus that is only evaluated on.
    shutil.copytree(corpora / "fma", tmp_path / "fma")
    with pytest.raises(UsageError, match=r"magnatagatune-pons2017 at 22050 Hz, but \S* contains no prepared corpus"):
        run_of("transfer-fma", tmp_path).require_corpora()
    (tmp_path / "magnatagatune").symlink_to(corpora / "magnatagatune-8000hz")
    with pytest.raises(UsageError, match="contains magnatagatune-pons2017 at 8000 Hz"):
        run_of("transfer-fma", tmp_path).require_corpora()
    manifest = tmp_path / "fma" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "name": "fma-small"}))
    with pytest.raises(UsageError, match=r"fma-medium at 22050 Hz, .* contains fma-small at 22050 Hz"):
        run_of("transfer-fma", tmp_path).require_corpora()


def test_recipes_of_users_may_use_any_corpus(run_of, tmp_path):
    synthetic_corpus(tmp_path / "mine", num_songs={"train": 1, "valid": 1, "test": 1}, num_samples=59_049)
    run = run_of("mtt-only-crop", tmp_path)
    probe = dataclasses.replace(run.recipe.probes[0], settings={**run.recipe.probes[0].settings, "corpus": "mine"})
    recipe = dataclasses.replace(run.recipe, train={**run.recipe.train, "corpus": "mine"}, probes=(probe,))
    dataclasses.replace(run, recipe=recipe).require_corpora()


def write_json(path: Path, entries: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))


def test_files_show_which_commands_are_done(run_of):
    run = run_of("mtt-only-crop")
    assert not run.is_exported() and not run.is_probed(0)
    (run.run / "checkpoints" / "step-000040500").mkdir(parents=True)
    record = {"starts": [{"time": "2021-01-01T00:00:00+00:00"}]}
    other = {"starts": [{"time": "2021-01-01T00:00:01+00:00"}]}
    write_json(run.run / "run.json", record)
    for step, of_run, is_exported in ((40_500, record, True), (40_000, record, False), (40_500, other, False)):
        write_json(run.model / "manifest.json", {"training": {"step": step, "run": of_run}})
        assert run.is_exported() == is_exported

    fingerprint = json.loads((run.corpora / "magnatagatune" / "manifest.json").read_text())["fingerprint"]
    for of_corpus, is_probed in (("other", False), (fingerprint, True)):
        write_json(run.result(0), {"corpus": {"fingerprint": of_corpus}})
        assert run.is_probed(0) == is_probed


def test_a_longer_run_does_not_count_as_that_of_the_recipe(run_of, corpora):
    run = run_of("mtt-only-crop")
    run.require_no_longer_run()
    write_json(run.run / "config.json", to_json(run.recipe.train_config))
    (run.run / "checkpoints" / "step-000040501").mkdir(parents=True)
    options = ["run", "mtt-only-crop", "--dry-run", "--corpora", str(corpora), "--runs", str(run.runs)]
    with pytest.raises(UsageError, match=r"a run of 40501 steps, but mtt-only-crop has 40500; give other --runs"):
        main(options)
    main([*options, "--train-changes", "steps=50000"])
    # This one may stop early, at any step.
    supervised = run_of("mtt-supervised")
    (supervised.run / "checkpoints" / "step-000999999").mkdir(parents=True)
    supervised.require_no_longer_run()


def test_results_with_changed_settings_have_names_of_their_own(run_of):
    run = run_of("mtt-only-gain")
    changes = [(), ("head=mlp",), ("seed=7", "head=mlp"), ("head=mlp", "seed=7")]
    names = [dataclasses.replace(run, probe_changes=one).result(0).name for one in changes]
    assert names[0] == "evaluation-mtt-only-gain-1.json"
    assert len(set(names[:3])) == 3 and names[3] == names[2]


def write_results(run: RecipeRun, **changes) -> None:
    scores = {
        "num_clips": 5_329,
        "roc_auc": {
            "over_tags": {"mean": 0.9, "interval": [0.8, 0.95]},
            "over_clips": {"mean": None, "interval": None},
        },
        "average_precision": {"over_tags": {"mean": 0.33, "interval": None}},
    }
    for number in range(2):
        entries = {"corpus": {"name": "magnatagatune-pons2017"}, "scores": {"test": scores | changes}}
        write_json(run.result(number), entries)


def test_measured_scores_are_compared_with_the_published_ones(run_of):
    run = run_of("labels-mtt-clmr-1")
    write_results(run)
    paper = "magnatagatune, thesis, linear, labels like paper 0.01"
    songs = "magnatagatune, thesis, linear, labels 0.01"
    assert run.compare() == (
        [
            [paper, "ROC-AUC", "90.00", "80.00-95.00", "-", "-"],
            [paper, "PR-AUC", "33.00", "-", "33.12", "-0.12"],
            [songs, "ROC-AUC", "90.00", "80.00-95.00", "-", "-"],
            [songs, "PR-AUC", "33.00", "-", "-", "-"],
        ],
        [],
    )
    write_results(run, num_clips=2_665)
    (remark,) = run.compare()[1]
    assert "The published test split has 5,329 clips" in remark


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "mtt-clmr"], "`list` takes no name"),
        (["run"], "`show` and `run` take one"),
        (["cook", "mtt-clmr"], "There is no action 'cook'; choose one of list, show, run"),
        (["show", "mtt-cmlr"], "did you mean `mtt-clmr`"),
    ],
)
def test_refuses_what_cannot_be_done(arguments, words):
    with pytest.raises(UsageError, match=words):
        main(arguments)


def test_shows_files_and_commands(capsys):
    main(["show", "transfer-msd"])
    output = capsys.readouterr().out
    for name in ("transfer-msd", "msd-clmr"):
        assert (RECIPES / f"{name}.yaml").read_text() in output
    assert "python -m clmr_tf.export --model runs/msd-clmr --checkpoint newest --out savedmodels/msd-clmr" in output
