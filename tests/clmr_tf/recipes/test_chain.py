"""The commands of a recipe, and how it is told which of them are done."""

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
from clmr_tf.recipes.recipe import RECIPES, read_recipes
from clmr_tf.recipes.run import PUBLISHED_CORPORA, Chain, Places, options_of
from clmr_tf.train.run import resolve_places
from pipelines import billboard, fma, gtzan, magnatagatune, msd
from tests.clmr_tf.recipes.prepared import prepare_corpora

RECIPES_BY_NAME = read_recipes(RECIPES)
CONFIG_TYPES = {"clmr_tf.train": TrainConfig, "clmr_tf.export": ExportConfig, "clmr_tf.probe": ProbeConfig}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    return prepare_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture
def places(corpora, tmp_path) -> Places:
    return Places(corpora, tmp_path / "runs", tmp_path / "savedmodels", tmp_path / "features")


def chain_of(name: str, places: Places) -> Chain:
    recipe = RECIPES_BY_NAME[name]
    return Chain(recipe, RECIPES_BY_NAME[recipe.model_of or name], places)


def parse(line: str):
    """What the program behind a line that was shown is told."""
    python, dash_m, module, *arguments = shlex.split(line)
    assert (python, dash_m) == ("python", "-m")
    return parse_command(CONFIG_TYPES[module], arguments, program=module, description="")


@pytest.mark.parametrize("name", RECIPES_BY_NAME)
def test_every_recipe_can_be_run_and_its_commands_say_what_it_says(name, corpora, tmp_path, capsys):
    options = ["--corpora", str(corpora), "--runs", str(tmp_path / "runs"), "--savedmodels", str(tmp_path / "models")]
    main(["run", name, "--dry-run", *options])
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "The data are there; nothing was run."
    train, export, *probes = map(parse, lines)

    recipe = RECIPES_BY_NAME[name]
    base = RECIPES_BY_NAME[recipe.model_of or name]
    rate_hz = base.train.get("sample_rate_hz", 22_050)
    suffix = "" if rate_hz == 22_050 else f"-{rate_hz}hz"
    run, model = tmp_path / "runs" / base.name, tmp_path / "models" / base.name
    # As the file alone would be read.
    expected = from_json(TrainConfig, dict(base.train), where="")
    corpus = str(corpora / (base.train["corpus"] + suffix))
    assert train == dataclasses.replace(expected, corpus=corpus, workdir=run)
    assert export == ExportConfig(model=run, checkpoint=base.checkpoint, out=model)
    results = set()
    for probe, written in zip(probes, recipe.probes, strict=True):
        expected = from_json(ProbeConfig, dict(written.settings), where="")
        assert probe == dataclasses.replace(
            expected, corpus=str(corpora / (expected.corpus + suffix)), model=model, out=probe.out
        )
        # Where an export of new weights removes it.
        assert probe.out.parent == model and probe.out.match("evaluation-*.json")
        results.add(probe.out)
    assert len(results) == len(probes)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "models").exists()


def test_a_corpus_that_is_not_prepared_is_said_with_its_pipeline(corpora, places, tmp_path, capsys):
    places = dataclasses.replace(places, corpora=tmp_path)
    out = shlex.quote(str(tmp_path / "fma"))
    with pytest.raises(UsageError, match=rf"`python -m pipelines\.fma --out {out}`"):
        chain_of("transfer-fma", places).require_corpora()
    with pytest.raises(
        UsageError, match=r"pipelines\.magnatagatune --sample-rate-hz 8000 --out \S*magnatagatune-8000hz"
    ):
        main(["run", "mtt-rate-8000", "--corpora", str(tmp_path), "--runs", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()
    # The second of two.
    (tmp_path / "gtzan").symlink_to(corpora / "gtzan")
    with pytest.raises(UsageError, match="The corpus magnatagatune is not prepared in"):
        chain_of("transfer-gtzan", places).require_corpora()
    (tmp_path / "magnatagatune").symlink_to(corpora / "magnatagatune-8000hz")
    with pytest.raises(UsageError, match=r"at 8000 Hz, and transfer-gtzan needs magnatagatune-pons2017 at 22050 Hz"):
        chain_of("transfer-gtzan", places).require_corpora()


@pytest.mark.parametrize(("name", "other"), [("fma", "fma-small"), ("magnatagatune", "magnatagatune-clean")])
def test_another_split_or_size_of_a_corpus_is_not_the_published_one(corpora, places, tmp_path, name, other):
    for one in ("fma", "magnatagatune"):
        shutil.copytree(corpora / one, tmp_path / one)
    path = tmp_path / name / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": other}))
    with pytest.raises(UsageError, match=f"is {other} at 22050 Hz, and transfer-fma needs {PUBLISHED_CORPORA[name]}"):
        chain_of("transfer-fma", dataclasses.replace(places, corpora=tmp_path)).require_corpora()


def test_the_published_corpora_are_those_that_the_pipelines_make():
    made = {
        "billboard": billboard.NAME,
        "fma": f"fma-{fma.FmaOptions().size}",
        "gtzan": gtzan.CORPUS_NAME,
        "magnatagatune": magnatagatune.CORPUS_NAME,
        "msd": msd.CORPUS_NAME,
    }
    assert made == PUBLISHED_CORPORA


def test_options_are_read_back_as_they_were():
    settings = {
        "steps": 5,
        "learning_rate": 3e-4,
        "jit": True,
        "two_passes": False,
        "augmentation": "only-pitch",
        "augmentation_changes": ["pitch.cents=[-500, 500]", "pitch.probability=0.4"],
        "workdir": Path("runs/a b"),
        "decay_steps": None,
    }
    options = options_of(settings)
    assert "--no-two-passes" in options and "--decay-steps" not in options
    config = parse_command(TrainConfig, options, program="train", description="")
    del settings["decay_steps"]
    settings["augmentation_changes"] = tuple(settings["augmentation_changes"])
    assert {name: getattr(config, name) for name in settings} == settings
    assert options_of({"augmentation_changes": []}) == []


def test_with_other_settings_of_a_probe_its_result_is_another_file(corpora, tmp_path, capsys):
    results = []
    for changes in ([], ["head=mlp"], ["seed=7", "head=mlp"], ["head=mlp", "seed=7"]):
        options = [
            "--corpora",
            str(corpora),
            "--runs",
            str(tmp_path),
            *(["--probe-changes", *changes] if changes else []),
        ]
        main(["run", "mtt-only-gain", "--dry-run", *options])
        probe = parse(capsys.readouterr().out.splitlines()[2])
        assert probe.head == ("mlp" if changes else "linear") and probe.seed == (7 if len(changes) == 2 else 42)
        results.append(probe.out.name)
    assert results[0] == "evaluation-mtt-only-gain-1.json"
    assert len(set(results[:3])) == 3 and results[3] == results[2]
    assert all(name.startswith("evaluation-mtt-only-gain-1-changed-") for name in results[1:])


def write_json(path: Path, plain: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain))


def test_what_is_on_the_disk_says_what_is_done(places):
    chain = chain_of("mtt-only-crop", places)
    assert [chain.is_done(place) for place in range(3)] == [False] * 3
    checkpoints = chain.run / "checkpoints"
    (checkpoints / "step-000040000").mkdir(parents=True)
    assert not chain.is_trained()
    (checkpoints / "step-000040500").mkdir()
    assert chain.is_trained() and not chain.is_exported()

    record = {"starts": [{"time": "2021-01-01T00:00:00+00:00"}]}
    write_json(chain.run / "run.json", record)
    manifest = chain.model / "manifest.json"
    write_json(manifest, {"training": {"step": 40_500, "run": record}})
    assert chain.is_exported()
    write_json(manifest, {"training": {"step": 40_000, "run": record}})
    assert not chain.is_exported(), "the model is of an earlier step"
    other = {"starts": [{"time": "2021-01-01T00:00:01+00:00"}]}
    write_json(manifest, {"training": {"step": 40_500, "run": other}})
    assert not chain.is_exported(), "the model is of another run of this name"
    # No export replaces that, so it is said before anything takes days.
    with pytest.raises(UsageError, match=r"holds a model of another run than .*; move it away, bring back its run, or"):
        chain.require_own_model()
    write_json(manifest, {"training": {"step": 40_000, "run": record}})
    chain.require_own_model()
    manifest.unlink()
    chain.require_own_model()
    write_json(manifest, {"training": {"step": 40_500, "run": other}})

    fingerprint = json.loads((places.corpora / "magnatagatune" / "manifest.json").read_text())["fingerprint"]
    assert not chain.is_probed(0)
    write_json(chain.result(0), {"corpus": {"fingerprint": "of another corpus"}})
    assert not chain.is_probed(0)
    write_json(chain.result(0), {"corpus": {"fingerprint": fingerprint}})
    assert chain.is_probed(0)


def test_a_run_with_other_settings_or_more_steps_is_never_taken_for_that_of_the_recipe(corpora, places):
    config = resolve_places(dataclasses.replace(RECIPES_BY_NAME["mtt-only-crop"].train_config(), batch_size=24))
    run = places.runs / "mtt-only-crop"
    write_json(run / "config.json", to_json(config))
    (run / "checkpoints" / "step-000040500").mkdir(parents=True)
    options = ["run", "mtt-only-crop", "--dry-run", "--corpora", str(corpora), "--runs", str(places.runs)]
    with pytest.raises(UsageError, match=r"other settings \(batch_size 24 -> 48\); give other --runs and"):
        main(options)
    changes = ["--train-changes", "batch_size=24"]
    main([*options, *changes])
    with pytest.raises(UsageError, match=r"run of 40500 steps, and mtt-only-crop has 40000; give other --runs"):
        main([*options, *changes, "steps=40000"])
    # One that is on its way, or goes on for longer.
    main([*options, *changes, "steps=50000"])


def test_a_training_that_may_end_early_is_asked_itself(places):
    chain = chain_of("mtt-supervised", places)
    (chain.run / "checkpoints" / "step-000999999").mkdir(parents=True)
    assert not chain.is_trained()


def test_a_list_takes_no_name():
    with pytest.raises(UsageError, match="`list` names all recipes and takes no name; `show mtt-clmr` shows one"):
        main(["list", "mtt-clmr"])
