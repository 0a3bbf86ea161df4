import csv
import shutil

import numpy as np
import pytest
import soundfile

from clmr_tf.data.corpus import Corpus
from clmr_tf.errors import ClmrError, UsageError
from pipelines.demo import DATA, TRACKS_FILE, PrepareSettings, main, prepare_corpus

pytestmark = pytest.mark.usefixtures("no_workers")


def tracks():
    with (DATA / TRACKS_FILE).open(encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


def test_the_command_prepares_the_music_of_the_repository(tmp_path):
    main(["--out", str(tmp_path / "demo")])
    corpus = Corpus.open(tmp_path / "demo")
    by_file = {track["file"]: track for track in tracks()}
    assert [item.source for item in corpus.items] == sorted(by_file)
    for item in corpus.items:
        track = by_file[item.source]
        assert (item.split, item.tags, item.song_id) == (track["split"], (track["class"],), track["song_id"])
    assert corpus.manifest.num_skipped == {}
    assert len(corpus.manifest.tag_names) >= 8
    # They are mono at the rate of the corpus, so that decoding is all that happens to them.
    for item in corpus.items[:: len(corpus.items) // 3]:
        expected, rate_hz = soundfile.read(DATA / item.source, dtype="float32")
        assert rate_hz == 22050
        assert np.abs(corpus.read_samples(item) - np.clip(expected, -1, 1)).max() <= 1 / 32768


@pytest.fixture
def small_demo(tmp_path):
    """Three tracks of the demo data, with their table."""
    data = tmp_path / "demo_data"
    chosen = tracks()[:3]
    for track in chosen:
        (data / track["file"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DATA / track["file"], data / track["file"])
    with (data / TRACKS_FILE).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(chosen[0]))
        table.writeheader()
        table.writerows(chosen)
    return data


def test_a_missing_or_damaged_track_is_named(tmp_path, small_demo):
    settings = PrepareSettings(num_workers=1)
    assert len(prepare_corpus(tmp_path / "good", settings, small_demo).items) == 3
    track = small_demo / tracks()[1]["file"]
    track.write_bytes(track.read_bytes()[:-1])
    with pytest.raises(ClmrError, match=f"{track.name} is not the file that the table describes"):
        prepare_corpus(tmp_path / "bad", settings, small_demo)
    track.unlink()
    with pytest.raises(ClmrError, match=f"{track.name} is missing"):
        prepare_corpus(tmp_path / "bad", settings, small_demo)
    (small_demo / TRACKS_FILE).unlink()
    with pytest.raises(UsageError, match="not installed"):
        prepare_corpus(tmp_path / "bad", settings, small_demo)
    assert not (tmp_path / "bad").exists()
