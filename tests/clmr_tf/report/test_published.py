"""Published numbers beside the rows that repeat them, and beside no others."""

import dataclasses

import pytest

from clmr_tf.config.command_line import to_json
from clmr_tf.recipes.recipe import PUBLISHED_CORPORA, RECIPES, read_other_published, read_recipe
from clmr_tf.report.published import published_ablation, published_beside, published_curves, published_on
from clmr_tf.report.results import Training, read_result
from tests.clmr_tf.report.written_results import result, write

MAGNATAGATUNE = "magnatagatune-pons2017"


@pytest.fixture
def result_of(tmp_path):
    """A result of a recipe's probe, as its commands would write it."""

    def make(name: str, number: int = 0, **changes):
        recipe = read_recipe(RECIPES, name)
        config, probe = recipe.train_config, recipe.probes[number].config
        labels = config if probe.head == "own" else probe
        few = labels.labels_like_paper
        # The corpus, the task and the head's options are those of the probe.
        of_training = (set(to_json(config)) - {"corpus", "task"}) & set(changes)
        settings = {**to_json(config), **{name: changes.pop(name) for name in of_training}}
        options = {
            "kind": probe.features,
            "head": probe.head,
            "preset": probe.preset,
            "corpus": PUBLISHED_CORPORA[probe.corpus],
            "choice": "like-paper" if few else "songs" if labels.labels < 1 else "all",
            "fraction": few or labels.labels,
            "width": settings["width"],
            "step": 1_234 if config.epochs else config.steps,
            **changes,
        }
        trained_on = options.pop("trained_on", PUBLISHED_CORPORA[recipe.train["corpus"]])
        found = read_result(write(tmp_path / "evaluation-x.json", result(0.3, **options)), "x")
        if options["kind"] != "model":
            return found
        training = Training(options["step"], {"name": trained_on, "fingerprint": "f"}, settings)
        return dataclasses.replace(found, training=training, objective=settings["objective"])

    return make


@pytest.mark.parametrize(
    ("name", "number", "scores"),
    [
        ("mtt-clmr", 0, {"roc_auc": 0.887, "average_precision": 0.356}),
        ("mtt-clmr", 1, {"roc_auc": 0.893, "average_precision": 0.36}),
        ("mtt-jukemir", 0, {"roc_auc": 0.894, "average_precision": 0.361}),
        ("gtzan-jukemir", 0, {"accuracy": 0.686}),
        ("mtt-epochs-3000", 1, {"roc_auc": 0.8894, "average_precision": 0.3546}),
        ("mtt-rate-8000", 0, {"roc_auc": 0.8478, "average_precision": 0.2977}),
        ("mtt-sweep-pitch-0.4", 0, {"average_precision": 0.3157}),
        ("mtt-untrained", 0, {"average_precision": 0.1538}),
        ("labels-mtt-clmr-50", 0, {"average_precision": 0.3453}),
        ("labels-mtt-supervised-1", 0, {"average_precision": 0.2481}),
        ("transfer-msd", 0, {"roc_auc": 0.8657, "average_precision": 0.3204}),
        ("msd-supervised", 0, {"roc_auc": 0.8842}),
    ],
)
def test_a_result_of_a_recipe_has_its_number(result_of, name, number, scores):
    published = {row.recipe: row.scores for row in published_beside(result_of(name, number))}
    assert published[name] == scores


def test_two_published_numbers_of_the_same_run_are_both_given(result_of):
    recipes = [row.recipe for row in published_beside(result_of("labels-mtt-clmr-100"))]
    assert recipes == ["labels-mtt-clmr-100", "mtt-epochs-3000"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mtt-clmr", {"corpus": "magnatagatune-clean"}),
        ("mtt-clmr", {"task": "instruments"}),
        ("mtt-clmr", {"preset": "thesis"}),
        ("mtt-clmr", {"choice": "songs", "fraction": 0.01}),
        ("mtt-clmr", {"step": 200}),
        ("mtt-clmr", {"batch_size": 8}),
        ("mtt-clmr", {"width": 0.25}),
        ("mtt-clmr", {"sampling_unit": "song"}),
        ("mtt-clmr", {"optimizer": "lars"}),
        ("mtt-clmr", {"temperature": 0.1}),
        ("mtt-clmr", {"augmentation": "thesis"}),
        ("mtt-clmr", {"trained_on": "demo"}),
        ("mtt-clmr", {"kind": "mel"}),
        ("labels-mtt-clmr-1", {"fraction": 0.03}),
        ("mtt-only-filter", {"augmentation_changes": ["filter.probability=0.5"]}),
        ("mtt-supervised", {"width": 0.5}),
        ("mtt-untrained", {"width": 0.5}),
    ],
)
def test_a_result_of_something_else_has_no_number(result_of, name, changes):
    assert published_beside(result_of(name, **changes)) == []


def test_curves_over_the_fraction_of_labels(result_of):
    curves = published_curves(result_of("mtt-clmr"))
    clmr, supervised = curves["published: CLMR linear"], curves["published: SampleCNN supervised"]
    assert [fraction for fraction, _ in clmr] == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert (clmr[0][1], clmr[-1][1], supervised[0][1], supervised[-1][1]) == (0.3312, 0.3511, 0.2481, 0.349)
    msd = published_curves(result_of("msd-clmr"))
    assert [points[3] for points in msd.values()] == [(0.1, 0.2327), (0.1, 0.2306)]
    assert published_curves(result_of("mtt-clmr", corpus="songs")) == {}


@pytest.mark.parametrize(
    ("augmentation", "changes", "score"),
    [
        ("only-reverb", [], 0.317),
        ("none", [], 0.3049),
        ("only-polarity", ["polarity.probability=0.8"], 0.3185),
        ("thesis", [], None),
        ("only-gain", ["gain.gain_db=[-3, 0]"], None),
    ],
)
def test_the_published_ablation_is_found_by_augmentation_on_any_corpus(result_of, augmentation, changes, score):
    one = result_of("mtt-clmr", corpus="songs", augmentation=augmentation, augmentation_changes=changes)
    published = published_ablation(one)
    assert (published and published.scores["average_precision"]) == score


def test_numbers_without_a_recipe_are_listed_with_a_source(result_of):
    rows = {row.row: row for row in published_on(result_of("mtt-clmr"))}
    assert rows["CPC MLP"].scores == {"roc_auc": 0.8799, "average_precision": 0.3304}
    assert rows["MULE"].link.endswith("](https://github.com/PandoraMedia/music-audio-representations)")
    assert {row.corpus for row in rows.values()} == {MAGNATAGATUNE}
    sources = read_other_published()["sources"]
    assert all(table["source"] in sources for table in read_other_published()["tables"])
