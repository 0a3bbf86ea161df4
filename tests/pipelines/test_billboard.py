import pytest

from clmr_tf.errors import UsageError
from pipelines import billboard
from tests.pipelines.published_data import SETTINGS, skipped_sources, write_clip, write_lines

pytestmark = pytest.mark.usefixtures("no_workers")

HEADER = '"id","chart_date","target_rank","actual_rank","title","artist","peak_rank","weeks_on_chart"'
ROWS = [
    '3,1987-07-11,54,54,"I Don\'t Mind At All","Bourgeois Tagg",38,15',
    '4,1972-09-30,62,62,"You\'ve Got A Friend","Roberta Flack",29,11',
    "5,1965-05-08,100,,,,,",
    '6,1979-07-28,1,1,"Bad Girls","Donna Summer",1,20',
    '1300,1979-08-04,1,1,"Bad Girls","Donna Summer",1,20',
]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(billboard, "NUM_ENTRIES", 4)
    write_lines(tmp_path / "data/billboard-2.0-index.csv", HEADER, *ROWS)
    for seed, name in enumerate(("0003.mp3", "0006.flac", "1300.wav")):
        write_clip(tmp_path / "data/audio" / name, seed, 44100)
    (tmp_path / "data/audio/0006.txt").write_text("about the song")
    return tmp_path / "data"


def test_places_of_one_song_stay_together(data, tmp_path):
    corpus = billboard.prepare_corpus(tmp_path / "corpus", SETTINGS, data)
    assert [(item.id, item.source, item.song_id) for item in corpus.items] == [
        ("0003", "audio/0003.mp3", "Bourgeois Tagg: I Don't Mind At All"),
        ("0006", "audio/0006.flac", "Donna Summer: Bad Girls"),
        ("1300", "audio/1300.wav", "Donna Summer: Bad Girls"),
    ]
    assert corpus.items[1].split == corpus.items[2].split
    assert corpus.manifest.tag_names == ()
    assert skipped_sources(tmp_path / "corpus") == {"audio/0004.mp3": "missing"}


def test_a_tenth_of_the_songs_is_for_validation(data, tmp_path, monkeypatch):
    monkeypatch.setattr(billboard, "NUM_ENTRIES", 740)
    rows = [f"{number},1987-07-11,1,1,Song {number},Singer,1,1" for number in range(1, 741)]
    write_lines(data / "billboard-2.0-index.csv", HEADER, *rows)
    splits = [source.split for source in billboard.read_sources(data)]
    assert (splits.count("train"), splits.count("valid"), splits.count("test")) == (666, 74, 0)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([HEADER, *ROWS[1:]], "has 3 annotated entries instead of the published 4"),
        ([HEADER, *ROWS[1:], "x,,,,title,artist,,"], "has the id 'x', which is not a number"),
        ([HEADER.replace("artist", "singer"), *ROWS], "has no column 'artist'"),
    ],
)
def test_an_unpublished_index_is_refused(data, tmp_path, lines, sentence):
    write_lines(data / "billboard-2.0-index.csv", *lines)
    with pytest.raises(UsageError, match=sentence):
        billboard.prepare_corpus(tmp_path / "corpus", SETTINGS, data)


def test_two_files_for_one_place_are_refused(data, tmp_path):
    write_clip(data / "audio/0003.wav", 9)
    with pytest.raises(UsageError, match=r"has both 0003\.mp3 and 0003\.wav; keep one of them"):
        billboard.prepare_corpus(tmp_path / "corpus", SETTINGS, data)


def test_the_published_count():
    assert billboard.NUM_ENTRIES == 890
