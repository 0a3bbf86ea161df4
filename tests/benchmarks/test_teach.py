"""The benchmark of teaching: perfect scores where they are known, and one result for all tasks."""

import json

import numpy as np

from benchmarks import teach
from clmr_tf.inference.teaching import Space
from tests.clmr_tf.probed import tiny_model, write_corpus_with_tasks, write_tiny_model


def test_a_rare_tag_is_found_by_offers_before_chance_finds_it():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(20, 512))
    group = np.repeat(np.arange(20), 20)
    means = (centres[group] + 0.8 * generator.normal(size=(400, 512))).astype(np.float32)
    # The tag is that of four groups, and the first song is of one of them.
    is_tag, space = group < 4, Space(means)
    scores = {
        offered: np.mean(
            [teach.taught(space, is_tag, np.random.default_rng(draw), (1, 8), offered=offered) for draw in range(3)],
            axis=0,
        )
        for offered in (False, True)
    }
    # The same start, in which about one of four groups is known.
    assert scores[True][0] == scores[False][0] < 0.8
    assert scores[True][1] > scores[False][1] and scores[True][1] > 0.85


def test_one_json_object_for_all_tasks(tmp_path, capsys):
    corpus = write_corpus_with_tasks(tmp_path / "songs")
    model = write_tiny_model(tiny_model(), tmp_path / "model")
    options = ["--model", model, "--corpus", corpus.folder, "--features-cache", tmp_path / "cache", "--draws", 2]
    teach.main([str(option) for option in (*options, "--counts", 1, 4, "--tasks", "halves", "several")])
    result = json.loads(capsys.readouterr().out)
    assert result["corpus"] == corpus.manifest.fingerprint and result["draws"] == 2
    # `never` is the tag of no clip.
    counts = {name: (task["num_songs"], task["num_classes"]) for name, task in result["tasks"].items()}
    assert counts == {"halves": (24, 2), "several": (30, 2)}
    for task in result["tasks"].values():
        first = [task[way]["1"]["precision_at_20"] for way in ("random", "offered")]
        assert first[0] == first[1] and all(0 <= value <= 1 for value in first)
