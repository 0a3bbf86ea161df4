"""The whole probe: a real export on a small corpus whose counts and shares are worked by hand."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.data.corpus import INDEX_FILE, MANIFEST_FILE, PCM_FILE, Corpus, count_by_split, fingerprint_of
from clmr_tf.errors import UsageError
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.probe import quick as probing
from clmr_tf.probe.quick import ProbeResult, Windows, difference_of, fit_linear_probe, interval_of, probe
from tests.clmr_tf.probed import CLIP, TAGS, tiny_model, write_tiny_model
from tests.synthetic import write_corpus

SEED = 7
# Item k is as long as two clips minus (6 - k) samples, so the first six have one clip and the others two.
NUM_SAMPLES = 2 * CLIP - 6
NUM_ITEMS = 20
# The tags follow the registers of the songs, except in test. Among the clips of train "brass" is the most frequent
# (4 of 8), among its recordings "keys" (3 of 6).
SINGLE_LABEL = {
    "train": {0: "keys", 2: "keys", 5: "keys", 3: "strings", 6: "brass", 11: "brass"},
    "valid": {1: "brass", 7: "keys", 8: "strings", 10: "keys"},
    "test": {
        **dict.fromkeys((4, 9, 14, 16), "brass"),
        **dict.fromkeys((12, 15, 17), "keys"),
        **dict.fromkeys((13, 18, 19), "strings"),
    },
}
NUM_CLIPS = {"train": 4 * 1 + 2 * 2, "valid": 1 + 3 * 2, "test": 1 + 9 * 2}


def relabel(corpus: Corpus, tags_of: dict[str, dict[int, tuple[str, ...]]]) -> Corpus:
    """Writes index and manifest of `corpus` again, with splits and tags by the number of the item."""
    items = list(corpus.items)
    for split, tags in tags_of.items():
        for number, names in tags.items():
            items[number] = dataclasses.replace(items[number], split=split, tags=names)
    index = "".join(item.to_json() + "\n" for item in items).encode()
    num_items, num_songs = count_by_split(items)
    manifest = dataclasses.replace(
        corpus.manifest,
        tag_names=TAGS,
        num_items=num_items,
        num_songs=num_songs,
        fingerprint=fingerprint_of(index),
    )
    (corpus.folder / INDEX_FILE).write_bytes(index)
    (corpus.folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    return Corpus.open(corpus.folder)


def embed_by_hand(model: SampleCNN, corpus: Corpus, split: str) -> Windows:
    """What the probe should see, from the bytes of the PCM file and the model alone."""
    pcm = np.fromfile(corpus.folder / PCM_FILE, "<i2").astype(np.float32) / 32768
    clips, rows, labels = [], [], []
    for row, item in enumerate(item for item in corpus.items if item.split == split):
        samples = pcm[item.offset_samples :][: item.num_samples]
        num_clips = 1 if int(item.id.removeprefix("item-")) < 6 else 2
        clips += [samples[clip * CLIP : (clip + 1) * CLIP] for clip in range(num_clips)]
        rows += [row] * num_clips
        labels.append([float(name in item.tags) for name in TAGS])
    return Windows(model(np.stack(clips), training=False).numpy(), np.array(rows), np.array(labels, np.float32))


def fit_by_hand(model: SampleCNN, corpus: Corpus, single_label: bool) -> tuple[ProbeResult, Windows]:
    train, valid, test = (embed_by_hand(model, corpus, split) for split in ("train", "valid", "test"))
    return fit_linear_probe(train, valid, test, single_label), test


@pytest.fixture(scope="module")
def trained():
    return tiny_model()


@pytest.fixture(scope="module")
def untrained():
    models = [SampleCNN(width=0.0625, seed=seed) for seed in (SEED, SEED + 1, SEED + 2)]
    for model in models:
        model.build()
    return models


@pytest.fixture(scope="module")
def model_folder(trained, tmp_path_factory) -> Path:
    return write_tiny_model(trained, tmp_path_factory.mktemp("savedmodels") / "tiny")


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpora") / "songs"
    return write_corpus(folder, num_songs={"train": NUM_ITEMS}, num_samples=NUM_SAMPLES, tag_names=TAGS)


def check_rows(rows: list[dict], corpus: Corpus, models: list[SampleCNN], single_label: bool) -> list[np.ndarray]:
    """Holds the rows of the trained and the untrained encoders against probes fitted here; returns their scores."""
    trained, untrained = rows
    assert [one["seed"] for one in untrained["by_seed"]] == [SEED, SEED + 1, SEED + 2]
    for name in ("score", "clip_score"):
        assert untrained[name] == pytest.approx(np.mean([one[name] for one in untrained["by_seed"]]), abs=1e-12)
    for row in rows:
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
    item_scores = []
    for row, model in zip([trained, *untrained["by_seed"]], models, strict=True):
        expected, test = fit_by_hand(model, corpus, single_label)
        item_scores.append(expected.item_scores)
        assert row["inverse_penalty"] == expected.inverse_penalty
        for name, labels, scores in (
            ("score", test.labels, expected.item_scores),
            ("clip_score", test.labels[test.item], expected.window_scores),
        ):
            right = (scores.argmax(axis=1) == labels.argmax(axis=1)).mean()
            by_hand = right if single_label else average_precision_score(labels, scores, average="macro")
            assert row[name] == pytest.approx(by_hand, abs=1e-6), name
    distinct = {(row["score"], row["clip_score"]) for row in [trained, *untrained["by_seed"]]}
    assert len(distinct) >= 3, "the encoders cannot be told apart on this corpus"
    return item_scores


def test_probe_tells_trained_untrained_and_majority_apart(model_folder, songs, trained, untrained):
    tags_of = {split: {number: (tag,) for number, tag in tags.items()} for split, tags in SINGLE_LABEL.items()}
    corpus = relabel(songs, tags_of)
    result = probe(model_folder, str(corpus.folder), Path("unused"), SEED)

    assert result["metric"] == "accuracy"
    assert result["corpus"] == {
        "name": "songs",
        "fingerprint": fingerprint_of((corpus.folder / INDEX_FILE).read_bytes()),
        "tag_names": list(TAGS),
    }
    assert result["splits"] == {
        split: {"num_recordings": len(tags), "num_clips": NUM_CLIPS[split]} for split, tags in SINGLE_LABEL.items()
    }
    assert (result["model"], result["training_step"], result["seed"]) == (str(model_folder), 3, SEED)
    assert [row["features"] for row in result["rows"]] == ["trained encoder", "untrained encoder", "majority guess"]
    item_scores = check_rows(result["rows"][:2], corpus, [trained, *untrained], single_label=True)

    majority = result["rows"][2]
    # "brass": 4 of the 10 test recordings, and 1 + 3 x 2 of their 19 clips.
    assert (majority["score"], majority["clip_score"]) == pytest.approx((0.4, 7 / 19), abs=1e-12)
    wilson = stats.binomtest(4, 10).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(majority["interval"], (wilson.low, wilson.high), atol=1e-4)

    labels = corpus.multi_hot(corpus.items_of("test"))
    difference = result["trained_minus_untrained"]
    assert difference["score"] == pytest.approx(result["rows"][0]["score"] - result["rows"][1]["score"], abs=1e-12)
    assert difference == difference_of(labels, item_scores[0], item_scores[1:], True)
    assert result["rows"][1]["interval"] == interval_of(labels, item_scores[1:], True)


def test_recordings_with_no_or_two_tags_are_scored_by_average_precision(
    model_folder, songs, trained, untrained, monkeypatch
):
    # The intervals have tests of their own, and take most of the time here.
    monkeypatch.setattr(probing, "_BOOTSTRAP_SAMPLES", 50)
    sets = ((), ("brass",), ("keys", "brass"), ("strings",), ("strings", "keys"))
    numbers = {"train": range(0, 8), "valid": range(8, 13), "test": range(13, 20)}
    corpus = relabel(songs, {split: {n: sets[n % 5] for n in of_split} for split, of_split in numbers.items()})
    result = probe(model_folder, str(corpus.folder), Path("unused"), SEED)

    assert result["metric"] == "macro average precision"
    assert result["splits"]["test"] == {"num_recordings": 7, "num_clips": 14}
    check_rows(result["rows"][:2], corpus, [trained, *untrained], single_label=False)
    # A constant has the tag's share as its average precision. In the sets of 13 to 19: brass 2, keys 3, strings 4.
    assert result["rows"][2]["score"] == pytest.approx((2 / 7 + 3 / 7 + 4 / 7) / 3, abs=1e-12)
    assert result["rows"][2]["clip_score"] == pytest.approx(3 / 7, abs=1e-12)


def test_a_corpus_of_one_class_is_refused(model_folder, songs):
    one = {"train": range(0, 8), "valid": range(8, 13), "test": range(13, 20)}
    corpus = relabel(songs, {split: dict.fromkeys(numbers, ("keys",)) for split, numbers in one.items()})
    with pytest.raises(UsageError, match=r"train split of the corpus songs .* tell apart; .* at least two"):
        probe(model_folder, str(corpus.folder), Path("unused"), SEED)


def test_the_folder_of_a_run_is_refused_before_the_music_is_prepared(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_json(TrainConfig(width=0.0625))))
    (tmp_path / "music").mkdir()
    with pytest.raises(UsageError, match=r"run is not a model folder: .*clmr_tf\.export"):
        probe(tmp_path / "run", str(tmp_path / "music"), tmp_path / "corpora", SEED)
    assert not (tmp_path / "corpora").exists()


@pytest.mark.parametrize(
    ("num_songs", "tag_names", "lack"),
    [
        ({"train": 1, "valid": 1, "test": 1}, (), "no tags"),
        ({"train": 2, "valid": 1}, ("a", "b"), "no test split"),
        ({"train": 2}, ("a", "b"), "no valid and no test split"),
        ({"valid": 1, "test": 1}, ("a", "b"), "no train split"),
    ],
)
def test_a_corpus_that_cannot_be_probed_is_refused_with_the_way_out(model_folder, tmp_path, num_songs, tag_names, lack):
    corpus = write_corpus(tmp_path / "lacking", num_songs=num_songs, num_samples=CLIP, tag_names=tag_names)
    with pytest.raises(UsageError, match=f"The corpus lacking has {lack}; ") as refused:
        probe(model_folder, str(corpus.folder), tmp_path / "corpora", SEED)
    assert "python -m pipelines.folder MUSIC --out FOLDER --tags folder --test-share 0.2" in str(refused.value)
    assert not (tmp_path / "corpora").exists()
