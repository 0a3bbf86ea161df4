import dataclasses
import json

import numpy as np
import pytest

from clmr_tf.data.corpus import Corpus
from clmr_tf.data.labels import MAGNATAGATUNE_TAGS
from clmr_tf.errors import UsageError
from pipelines.pseudo_tags import PROBABILITIES_FILE, Options, main, pseudo_tags_task, thresholds_of, window_starts
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("no_workers")

ANY = {"train": 0, "valid": 0, "test": 0}


def test_thresholds_equal_hand_computed_ones():
    # The columns add up to 2.0, 1.0 and 0.2, together 3.2; 1.6 tags for each of 4 recordings are 6.4, so the factor is
    # 2: round(4.0), round(2.0), round(0.4) recordings get them.
    probabilities = np.array([[0.8, 0.1, 0.02], [0.6, 0.5, 0.04], [0.4, 0.1, 0.06], [0.2, 0.3, 0.08]])
    np.testing.assert_allclose(thresholds_of(probabilities, 1.6), [0.2, 0.2, np.inf])
    # Half as many: factor 1, round(2.0), round(1.0), none.
    np.testing.assert_allclose(thresholds_of(probabilities, 0.8), [0.5, 0.4, np.inf])


def test_equal_probabilities_get_a_tag_together():
    probabilities = np.array([[0.9], [0.5], [0.5], [0.1]])
    assert (probabilities >= thresholds_of(probabilities, 0.5)).sum() == 3


def test_the_mean_number_of_tags_is_that_of_magnatagatune():
    probabilities = np.random.default_rng(3).beta(0.5, 6, (400, 50))
    carried = probabilities >= thresholds_of(probabilities)
    assert carried.sum() / 400 == pytest.approx(2.7, abs=50 * 0.5 / 400)
    # A tag that the model expects more often is given more often.
    assert np.corrcoef(probabilities.sum(axis=0), carried.sum(axis=0))[0, 1] > 0.95


@pytest.fixture
def corpus(tmp_path):
    """Ten songs of 3.2 seconds."""
    num_songs = {"train": 6, "valid": 2, "test": 2}
    return synthetic_corpus(tmp_path / "corpora/corpus", num_songs=num_songs, num_samples=70_000)


def probabilities_for(corpus):
    """Of three tags: one in every split, one in training only, and a rare one."""
    high = [0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.9, 0.1, 0.9, 0.1]
    train = [0.9 if item.split == "train" else 0.02 for item in corpus.items]
    rare = [0.9 if number == 0 else 0.01 for number in range(10)]
    return np.array([high, train, rare]).T


def test_tags_with_too_few_songs_in_a_split_are_dropped_and_named(corpus):
    names = ("high", "train", "rare")
    # Columns of 5.8, 5.5 and 1.0; of ten recordings with 1.2 tags each, 6, 5 (so the equal 6) and 1 get them.
    of = {"probabilities": probabilities_for(corpus), "tag_names": names, "mean_num_tags": 1.2}
    task, dropped = pseudo_tags_task(corpus.items, **of, min_songs={"train": 2, "valid": 1, "test": 1})
    assert task.name == "pseudo-tags"
    assert task.tag_names == ("high",)
    assert dropped == {"train": {"train": 6, "valid": 0, "test": 0}, "rare": {"train": 1, "valid": 0, "test": 0}}
    assert [task.items[item.id].split for item in corpus.items] == [item.split for item in corpus.items]
    carried = [bool(task.items[item.id].tags) for item in corpus.items]
    assert [number for number in range(10) if carried[number]] == [0, 1, 2, 3, 6, 8]
    assert task.description.startswith("Pseudo-tags: MagnaTagATune's tags as the model MTT_musicnn predicts them")
    everything, none = pseudo_tags_task(corpus.items, **of, min_songs=ANY)
    assert (everything.tag_names, none) == (names, {})
    with pytest.raises(UsageError, match="No tag has enough songs"):
        pseudo_tags_task(corpus.items, **of, min_songs={**ANY, "test": 3})


def test_songs_are_counted_not_recordings(tmp_path):
    corpus = synthetic_corpus(tmp_path / "pairs", num_songs={"train": 3}, items_per_song=2, num_samples=100)
    probabilities = np.array([[0.9], [0.9], [0.9], [0.1], [0.1], [0.1]])
    _, dropped = pseudo_tags_task(corpus.items, probabilities, ("a",), {"train": 0})
    assert dropped == {}
    with pytest.raises(UsageError, match="No tag has enough songs"):
        pseudo_tags_task(corpus.items, probabilities, ("a",), {"train": 4})


def test_windows_are_spread_over_the_whole_recording():
    assert window_starts(1000, 100, 4).tolist() == [0, 300, 600, 900]
    # No more than fit side by side; at least one, which may be longer than the recording.
    assert window_starts(250, 100, 32).tolist() == [0, 150]
    assert window_starts(99, 100, 32).tolist() == [0]


def test_the_command_adds_the_task_and_predicts_once(corpus, monkeypatch, capsys):
    heard = []

    class Tagger:
        def predict_on_batch(self, log_mel):
            heard.append(log_mel.shape)
            return np.full((len(log_mel), 50), 0.036) + 0.9 * (np.arange(50) == len(heard) % 2)

    # All probabilities add up to 27, the number of tags that ten recordings shall have.
    monkeypatch.setattr("pipelines.musicnn.read_weights", lambda wheel: {"from": wheel})
    monkeypatch.setattr("pipelines.musicnn.build_tagger", lambda weights: Tagger())
    options = ["--corpus", str(corpus.folder), "--musicnn", "some.whl", "--min-train", "1", "--min-test", "1"]
    main(options)
    output = capsys.readouterr()
    assert "2 pseudo-tags (guitar, classical), 1.00 per recording; dropped for too few songs" in output.out
    assert "Predicting tags: 10 of 10 recordings" in output.err
    # 3.2 seconds hold one window of 3 seconds.
    assert heard == [(1, 187, 96)] * 10
    content = json.loads((corpus.folder / PROBABILITIES_FILE).read_text())
    assert content["description"].startswith("Pseudo-tags: ")
    assert content["tag_names"] == list(MAGNATAGATUNE_TAGS)
    first = Corpus.open(corpus.folder).for_task("pseudo-tags")
    assert first.items[0].tags == ("classical",)
    main(options)
    assert len(heard) == 10
    assert Corpus.open(corpus.folder).for_task("pseudo-tags").manifest == first.manifest
    main([*options, "--num-windows", "2"])
    assert len(heard) == 20


def test_wrong_use_is_one_sentence(corpus, tmp_path):
    with pytest.raises(UsageError, match="Give the corpus"):
        main([])
    with pytest.raises(UsageError, match="--num-windows must be at least 1"):
        Options(num_windows=0)
    manifest = dataclasses.replace(corpus.manifest, storage="direct")
    (corpus.folder / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(UsageError, match="prepare it with --reader prepared"):
        main(["--corpus", str(corpus.folder)])
