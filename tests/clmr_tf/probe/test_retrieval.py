"""Retrieval: ranks that are known by construction, the views, and a whole result."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from clmr_tf.config.augmentation import AUGMENTATION_NAMES, AugmentationConfig, augmentation_preset
from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import UsageError
from clmr_tf.inference.tensorflow_encoder import tensorflow_encoder
from clmr_tf.models.encoders import build_encoder
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.probe import __main__ as command
from clmr_tf.probe import retrieval
from clmr_tf.probe.evaluation import main_scores
from clmr_tf.probe.features import EncoderFeatures, MelFeatures
from clmr_tf.probe.retrieval import CONDITIONS, draw_views, ranks_of, score_retrieval
from tests.clmr_tf.probed import CLIP
from tests.synthetic import save_corpus, synthetic_corpus

NUM_TEST, NUM_TRAIN = 12, 2
SEED = 42


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Corpus:
    """Twelve unheard songs whose samples say their number, and one that is too short."""
    folder = tmp_path_factory.mktemp("corpora") / "songs"
    num_songs = {"train": NUM_TRAIN, "test": NUM_TEST}
    return synthetic_corpus(folder, num_songs=num_songs, num_samples=2 * CLIP)


@pytest.fixture
def few(monkeypatch):
    """Few queries, and only augmentations that are quick to build, also as the chain."""
    monkeypatch.setattr(retrieval, "MIN_NUM_QUERIES", 30)
    quick = {"clean": "clean", "polarity": "polarity", "chain": "gain"}
    monkeypatch.setattr(retrieval, "CONDITIONS", {name: CONDITIONS[other] for name, other in quick.items()})


def number_of(clip: np.ndarray) -> int:
    """The number of the item that a crop of `tests.synthetic.ramp` is from: every third sample is this number."""
    thirds = [np.round(32768 * clip[start::3]) for start in range(3)]
    constant = [part[0] for part in thirds if part.std() == 0]
    return int(max(constant, key=abs))


@dataclasses.dataclass
class NumberFeatures:
    """One-hot vectors of the number that a crop says, modulo the number of recordings."""

    kind: str = "numbers"
    clip_num_samples: int = CLIP
    sample_rate_hz: int = 22050
    needs_standardising: bool = False
    identity: str = ""

    def features_of(self, clips: np.ndarray) -> np.ndarray:
        return np.eye(NUM_TEST)[[number_of(clip) % NUM_TEST for clip in clips]]

    def describe(self) -> dict:
        return {"kind": self.kind}


def test_ranks_are_known_by_construction(songs, few):
    """A clean crop says its recording; an inverted one says that of another, or of itself, and ties all the others."""
    views = draw_views(songs, CLIP, SEED)
    # Song n is item n + 2, which is column n + 2; inverted it is column -(n + 2).
    numbers = {int(item.id.removeprefix("item-")) for item in views.recordings}
    assert numbers == set(range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)) and views.num_rounds == 3
    (scores,) = score_retrieval(views, songs, [NumberFeatures()])
    assert scores["clean/recall_at_1"].value == scores["clean/mean_reciprocal_rank"].value == 1.0
    assert scores["clean/recall_at_1"].interval == [1.0, 1.0]
    # Items 6 and 12 are their own mirror images; of the others one is better and ten are equal: 1 + 1 + 10 / 2.
    assert scores["polarity/recall_at_1"].value == pytest.approx(2 / 12)
    assert scores["polarity/mean_reciprocal_rank"].value == pytest.approx((2 + 10 / 7) / 12)
    is_right = np.array([int(item.id.removeprefix("item-")) % 6 == 0 for item in views.recordings])
    draws = np.random.default_rng(0).integers(NUM_TEST, size=(1000, NUM_TEST))
    expected = np.percentile(is_right[draws].mean(axis=1), [2.5, 97.5])
    np.testing.assert_allclose(scores["polarity/recall_at_1"].interval, expected, atol=1e-12)


def test_ranks_equal_a_slow_transcription():
    generator = np.random.default_rng(0)
    candidates = generator.standard_normal((7, 3, 5)) * [1, 100, 1, 0.01, 1] + [50, 0, 0, 0, -9]
    queries = candidates[:4] + generator.standard_normal((4, 3, 5)) * [1, 100, 1, 0.01, 1]
    # Two equal candidates in one round, one of which is right, and a feature that never changes.
    candidates[6, 2] = candidates[1, 2]
    candidates, queries = (
        np.concatenate([part, np.ones((*part.shape[:2], 1))], axis=2) for part in (candidates, queries)
    )
    mean, deviation = candidates.mean(axis=(0, 1)), candidates.std(axis=(0, 1))
    deviation[5] = 1
    received, num_ties = ranks_of(queries, candidates), 0
    for row in range(4):
        for number in range(3):
            one = (queries[row, number] - mean) / deviation
            cosines = []
            for candidate in candidates[:, number]:
                other = (candidate - mean) / deviation
                cosines.append(one @ other / np.sqrt(one @ one) / np.sqrt(other @ other))
            others = np.delete(cosines, row) - cosines[row]
            num_ties += (abs(others) < 1e-12).sum()
            expected = 1 + (others > 1e-12).sum() + (abs(others) < 1e-12).sum() / 2
            assert received[row, number] == expected
    assert num_ties == 1 and len(np.unique(received)) > 3


def test_the_two_crops_of_a_query_do_not_overlap_and_depend_on_nothing_else(songs):
    views = draw_views(songs, CLIP, SEED)
    item = dataclasses.replace(views.recordings[0], num_samples=2 * CLIP + 1000)
    draws = [views.draw(item, number) for number in range(400)]
    for drawn in draws:
        first, second = sorted((drawn.candidate_offset, drawn.query_offset))
        assert first >= 0 and first + CLIP <= second <= item.num_samples - CLIP
    assert 0.4 < np.mean([drawn.candidate_offset < drawn.query_offset for drawn in draws]) < 0.6
    assert len({drawn.query_offset for drawn in draws}) > 300
    assert len({tuple(drawn.view_seeds) for drawn in draws}) == 400
    assert draws[0].view_seeds.dtype == np.int32 and {drawn.view_seeds.min() < 0 for drawn in draws} == {True, False}
    # Other recordings, and how many there are, change nothing; the seed changes everything.
    fewer = dataclasses.replace(views, recordings=views.recordings[:3], num_rounds=1)
    assert str(fewer.draw(item, 7)) == str(draws[7])
    other = dataclasses.replace(views, seed=SEED + 1).draw(item, 7)
    assert other.query_offset != draws[7].query_offset and (other.view_seeds != draws[7].view_seeds).any()


def test_one_recording_of_each_unheard_song_is_a_candidate(tmp_path, songs):
    num_songs = {"train": 3, "valid": 11, "test": 400}
    items = [
        dataclasses.replace(songs.items[0], id=f"{split}-{song}-{number}", song_id=f"{split} {song}", split=split)
        for split, count in num_songs.items()
        for song in range(count)
        for number in range(2)
    ]
    # The first recording of song 0 is too short, and so are both of song 1.
    short = {"test-0-0", "test-1-0", "test-1-1"}
    items = [dataclasses.replace(item, num_samples=2 * CLIP - (item.id in short)) for item in items]
    views = draw_views(save_corpus(tmp_path / "with test", items, None), CLIP, SEED)
    ids = [item.id for item in views.recordings]
    assert sorted(ids) == sorted(["test-0-1", *(f"test-{song}-0" for song in range(2, 400))])
    assert ids != sorted(ids) and (views.num_queried, views.num_rounds, views.num_too_short) == (300, 1, 1)
    facts = views.describe()
    assert (facts["split"], facts["num_candidates"], facts["num_queries"]) == ("test", 399, 300)
    assert facts["chance"]["recall_at_1"] == 1 / 399
    # Without a test split, the validation split.
    items = [item for item in items if item.split != "test"]
    views = draw_views(save_corpus(tmp_path / "without", items, None), CLIP, SEED)
    assert (views.split, len(views.recordings), views.num_rounds) == ("valid", 11, 28)
    assert views.describe()["num_queries"] == 308
    items = tuple(item for item in items if item.song_id not in ("valid 3", "valid 4"))
    with pytest.raises(
        UsageError,
        match=r"The valid split of the corpus songs has 9 songs with a recording of at least 5\.4 s, and retrieval "
        r"needs 10; give a corpus with more music in its test split\.",
    ):
        draw_views(save_corpus(tmp_path / "few", items, None, name="songs"), CLIP, SEED)


def test_queries_are_clean_or_always_augmented_in_one_way_or_by_the_released_chain():
    assert tuple(CONDITIONS) == ("clean", *AUGMENTATION_NAMES, "chain")
    assert CONDITIONS["clean"] is None and CONDITIONS["chain"] == AugmentationConfig()
    for name in AUGMENTATION_NAMES:
        config = CONDITIONS[name]
        probabilities = {other: getattr(config, other).probability for other in AUGMENTATION_NAMES}
        assert probabilities == {other: float(other == name) for other in AUGMENTATION_NAMES}
        assert getattr(config, name) == getattr(augmentation_preset(f"only-{name}"), name) and not config.asymmetric


def test_the_result_has_the_model_and_its_baselines_on_the_same_views(
    songs, few, model, model_folder, tmp_path, capsys
):
    def run(name: str, *options) -> dict:
        out = tmp_path / f"{name}.json"
        places = ["--model", model_folder, "--corpus", songs.folder, "--preset", "retrieval", "--out", out]
        command.main([str(option) for option in (*places, *options)])
        return json.loads(out.read_text(encoding="utf-8"))

    result = run("one")
    shown = capsys.readouterr().out
    assert shown.count("Minus untrained features, clean/recall at 1: ") == 1
    # No number is cut off.
    assert "…" not in shown
    assert result["protocol"]["num_queries"] == 36 and result["corpus"]["fingerprint"] == songs.manifest.fingerprint
    sources = [encoder_features(model), encoder_features(build_encoder(width=0.0625, seed=SEED))]
    views = draw_views(songs, CLIP, SEED)
    every = score_retrieval(views, songs, [*sources, MelFeatures(CLIP, 22050)])
    trained, *baselines = every
    assert [entry["minus"]["features"]["kind"] for entry in result["differences"]] == ["untrained", "mel"]
    assert result["scores"]["test"].keys() == trained.keys()
    for name, score in trained.items():
        assert result["scores"]["test"][name] == {"mean": score.value, "interval": score.interval}
        for baseline, entry in zip(baselines, result["differences"], strict=True):
            expected = score.value - baseline[name].value
            assert entry["scores"][name]["mean"] == pytest.approx(expected, abs=1e-12)
            interval = np.percentile(score.resampled - baseline[name].resampled, [2.5, 97.5])
            np.testing.assert_allclose(entry["scores"][name]["interval"], interval, atol=1e-6)
    recorded = main_scores(result)["-retrieval"]
    among = f"among {result['protocol']['num_candidates']} recordings"
    assert recorded["metric"] == f"recall at 1 of augmented views {among}" and recorded["split"] == "test"
    assert recorded["mean"] == trained["chain/recall_at_1"].value
    assert [recorded["differences"][name]["mean"] for name in ("untrained", "mel")] == pytest.approx(
        [trained["chain/recall_at_1"].value - baseline["chain/recall_at_1"].value for baseline in baselines]
    )
    # Against itself, nothing differs; with another seed, the views are others.
    again = run("again", "--compare", tmp_path / "one.json")
    assert {**again, "differences": again["differences"][:2]} == result
    assert all(score["interval"] == [0.0, 0.0] for score in again["differences"][2]["scores"].values())
    # Other features have scores of their own, and the model can be scored alone.
    mel = run("mel", "--features", "mel")
    assert (mel["features"]["kind"], mel["differences"]) == ("mel", [])
    assert {name: score["mean"] for name, score in mel["scores"]["test"].items()} == {
        name: score.value for name, score in baselines[1].items()
    }
    assert run("alone", "--no-baselines") == {**result, "differences": []}
    assert "…" not in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"with other recordings, labels or views; .* use the same --seed"):
        run("other", "--seed", "7", "--compare", tmp_path / "one.json")


def encoder_features(model: SampleCNN) -> EncoderFeatures:
    return EncoderFeatures(tensorflow_encoder(model), "model", {})


def test_a_corpus_with_too_few_unheard_songs_is_refused(corpus, model_folder, tmp_path: Path):
    options = ["--model", model_folder, "--corpus", corpus.folder, "--preset", "retrieval", "--task", "halves"]
    with pytest.raises(UsageError, match=r"The test split of the corpus songs has 3 songs .* retrieval needs 10"):
        command.main([str(option) for option in options])
