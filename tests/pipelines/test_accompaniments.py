"""Real songs: Debian's MMA and soundfonts and the synthesizer, downloaded unless they are in data/accompaniments."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from clmr_tf.data.corpus import MANIFEST_FILE
from clmr_tf.data.resolution import resolve_corpus
from clmr_tf.data.tasks import task_names_in
from clmr_tf.errors import ClmrError, UsageError
from pipelines import accompaniments
from pipelines.accompaniments import DATA, Options, main, prepare_corpus, rendering, songs, tools
from pipelines.accompaniments.instruments import DRUM_KIT_KEYS, LATIN_PERCUSSION_KEYS, PROGRAMS
from pipelines.accompaniments.rendering import RenderingError, RenderingTask, compose, midi_events, render_song
from pipelines.accompaniments.songs import draw_songs, read_grooves
from pipelines.accompaniments.tools import find_tools
from tests.pipelines.chords import tones
from tests.pipelines.conftest import run_in_this_process
from tests.pipelines.midi_file import read_midi
from tests.pipelines.published_data import skipped_sources

# The third soundfont takes seconds to load, so songs for the test get one of the small ones here.
TRAINING, HELD_OUT = "TimGM6mb", "sf_GMbank"
OPTIONS = Options(num_songs=10, num_workers=1)

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    there = Path(os.environ.get("ACCOMPANIMENTS_DATA", Path(__file__).parents[2] / DATA))
    for path in [*there.glob("*.deb"), *there.glob("*.whl")]:
        shutil.copy(path, folder)
    try:
        tools.fetch_tools(folder, (TRAINING, HELD_OUT))
    except ClmrError as error:
        pytest.skip(f"MMA, the soundfonts or the synthesizer cannot be downloaded: {error}")
    return folder


@pytest.fixture(scope="module")
def parts(data):
    return find_tools(data, (TRAINING, HELD_OUT))


@pytest.fixture(scope="module", autouse=True)
def small_soundfonts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(songs, "TRAINING_SOUNDFONTS", (TRAINING,))
        patch.setattr(songs, "HELD_OUT_SOUNDFONT", HELD_OUT)
        patch.setattr(accompaniments, "find_tools", lambda data: find_tools(data, (TRAINING, HELD_OUT)))
        patch.setattr("pipelines.accompaniments.run_in_workers", run_in_this_process)
        patch.setattr("pipelines.preparation.prepare.run_in_workers", run_in_this_process)
        yield


@pytest.fixture(scope="module")
def corpus(data, tmp_path_factory):
    return prepare_corpus(tmp_path_factory.mktemp("corpora") / "accompaniments", OPTIONS, data)


@pytest.fixture(scope="module")
def drawn():
    return draw_songs(OPTIONS.num_songs, OPTIONS.seed, read_grooves())


@pytest.fixture(scope="module")
def midi_files(parts, drawn):
    return [compose(song.score(), parts) for song in drawn]


def test_the_corpus_has_every_song_with_its_splits_and_tasks(corpus, drawn):
    assert corpus.manifest.num_items == {"train": 7, "valid": 1, "test": 2}
    assert {item.num_samples for item in corpus.items} == {30 * 22050}
    rows = [json.loads(line) for line in (corpus.folder / "songs.jsonl").read_text().splitlines()]
    assert [(row["id"], row["split"], row["bpm"], row["key"]) for row in rows] == [
        (song.item_id, song.split, song.bpm, song.key) for song in drawn
    ]
    assert {row["split"] for row in rows if row["soundfont"] == HELD_OUT} == {"test"}
    assert {row["soundfont"] for row in rows if row["split"] != "test"} == {TRAINING}
    assert task_names_in(corpus.folder) == ("key", "mode", "tempo")
    for name, labels in (("mode", "mode"), ("key", "key"), ("tempo", "tempo_class")):
        assert [item.tags for item in corpus.for_task(name).items] == [(getattr(song, labels),) for song in drawn]
    for item, song in zip(corpus.items, drawn, strict=True):
        assert set(song.groove.styles) < set(item.tags)
    description = corpus.manifest.source["description"]
    for name in ("mma 2", "timgm6mb-soundfont 1", "csound-soundfont 1:", "tinysoundfont 0.3.7", "numpy", "GPL-2+"):
        assert name in description
    assert (corpus.manifest.source["num_songs"], corpus.manifest.source["seed"]) == ("10", "0")


def test_labels_agree_with_the_midi(midi_files, drawn, corpus):
    for song, content, item in zip(drawn, midi_files, corpus.items, strict=True):
        midi = read_midi(content)
        # MIDI has whole microseconds.
        assert midi.tempi == [pytest.approx(60e6 / song.bpm, abs=1)]
        heard = [note for note in midi.notes if note.seconds < 30]
        num_notes = {
            **{tag: sum(n.channel != 9 and n.program in programs for n in heard) for tag, programs in PROGRAMS.items()},
            "drums": sum(n.channel == 9 and n.key in DRUM_KIT_KEYS for n in heard),
            "latin percussion": sum(n.channel == 9 and n.key in LATIN_PERCUSSION_KEYS for n in heard),
        }
        assert set(item.tags) - set(song.groove.styles) == {tag for tag, count in num_notes.items() if count >= 4}
        # There is music to the end.
        assert max(note.seconds for note in heard) > 27
        if "AllTracks Drum Off" in song.changes:
            assert all(note.channel != 9 for note in heard)


def test_every_bar_of_the_midi_has_the_chord_of_the_score(midi_files, drawn):
    inside = []
    for song, content in zip(drawn, midi_files, strict=True):
        for note in read_midi(content).notes:
            if note.channel != 9:
                # A note may begin a little before its beat.
                bar = int((note.beats + 0.1) // song.groove.beats_per_bar)
                inside.append(note.key % 12 in tones(song.chords[bar % len(song.chords)]))
    # The others are passing notes of basses.
    assert len(inside) > 1000 and np.mean(inside) > 0.95


def test_the_audio_has_the_tempo_of_the_labels(corpus, drawn):
    for item, song in zip(corpus.items[:6], drawn, strict=False):
        expected = song.groove.beats_per_bar * 60 / song.bpm
        assert bar_seconds(corpus.read_samples(item), expected) == pytest.approx(expected, rel=2e-3), song


def bar_seconds(audio, expected):
    """The lag within 6 % of `expected` at which the onsets repeat best."""
    hop = 220
    _, _, spectrum = scipy.signal.stft(audio, 22050, nperseg=1024, noverlap=1024 - hop)
    flux = np.maximum(np.diff(np.log1p(100 * np.abs(spectrum)), axis=1), 0).sum(axis=0)
    flux -= flux.mean()
    correlation = scipy.signal.correlate(flux, flux)[len(flux) - 1 :] / np.arange(len(flux), 0, -1)
    near = np.flatnonzero(np.abs(np.arange(len(correlation)) * hop / 22050 / expected - 1) < 0.06)
    best = near[np.argmax(correlation[near])]
    before, at, after = correlation[best - 1 : best + 2]
    return (best + 0.5 * (before - after) / (before - 2 * at + after)) * hop / 22050


def test_the_audio_has_the_key_of_the_labels(corpus, drawn):
    """The loudest triad in the bars of the tonic; harmonics and drums hide some, and a guess is right once in 24."""
    found = []
    for item, song in zip(corpus.items, drawn, strict=True):
        bar = round(song.groove.beats_per_bar * 60 / song.bpm * 22050)
        audio = corpus.read_samples(item)
        chroma = chroma_of(np.concatenate([audio[start : start + bar] for start in range(0, len(audio), 4 * bar)]))
        triads = {
            (root, mode): chroma[[root, (root + third) % 12, (root + 7) % 12]].sum()
            for root in range(12)
            for mode, third in (("major", 4), ("minor", 3))
        }
        found.append(max(triads, key=triads.get) == (song.tonic, song.mode))
    assert sum(found) >= 6


def chroma_of(audio):
    """Magnitudes of spectral peaks from 60 to 420 Hz, added up by pitch class."""
    frequencies, _, spectrum = scipy.signal.stft(audio, 22050, nperseg=16384, noverlap=8192)
    magnitudes = np.abs(spectrum)
    is_peak = np.zeros(magnitudes.shape, bool)
    is_peak[1:-1] = (magnitudes[1:-1] > magnitudes[:-2]) & (magnitudes[1:-1] > magnitudes[2:])
    in_range = (frequencies > 60) & (frequencies < 420)
    classes = np.rint(69 + 12 * np.log2(np.maximum(frequencies, 1) / 440)).astype(int) % 12
    peaks = (magnitudes * is_peak).sum(axis=1) * in_range
    return np.array([peaks[classes == number].sum() for number in range(12)])


def test_a_note_has_its_pitch(parts):
    """Concert pitch, within 20 cents, from the program "flute" of both soundfonts; they are tuned by ear."""
    midi = rendering._imported("tinysoundfont.midi", parts.synthesizer)
    events = [midi.Event(midi.ProgramChange(73)), midi.Event(midi.NoteOn(69, 100))]
    for soundfont in (TRAINING, HELD_OUT):
        audio = rendering.synthesize(events, parts.soundfonts[soundfont], parts)[44100 : 9 * 44100]
        spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
        # Vibrato spreads a line, so its centre is measured.
        near = slice(8 * 415, 8 * 466)
        hz = np.average(np.arange(near.start, near.stop) / 8, weights=spectrum[near] ** 2)
        assert abs(1200 * np.log2(hz / 440)) < 20


def test_a_note_that_begins_again_ends_the_earlier_one(parts):
    """An organ note that begins five times and ends once is silent afterwards; MMA writes such notes."""
    midi = rendering._imported("tinysoundfont.midi", parts.synthesizer)
    events = [midi.Event(midi.ProgramChange(16))]
    events += [midi.Event(midi.NoteOn(60, 100), t=float(second)) for second in range(5)]
    events.append(midi.Event(midi.NoteOff(60), t=10.0))
    audio = rendering.synthesize(events, parts.soundfonts[TRAINING], parts)
    assert audio[5 * 44100 : 10 * 44100].std() > 0.01
    assert np.abs(audio[15 * 44100 :]).max() < 1e-6


@pytest.mark.parametrize("groove", ["FolkRock", "DSoul", "GypsyJazz"])
def test_grooves_of_many_notes_do_not_fade(parts, groove):
    song = next(song for song in draw_songs(100, 0, read_grooves()) if song.groove.name == groove)
    song = dataclasses.replace(song, bpm=120, changes=())
    events = midi_events(compose(song.score(), parts), parts)
    levels_db = 20 * np.log10(
        rendering.synthesize(events, parts.soundfonts[TRAINING], parts).reshape(3, -1).std(axis=1)
    )
    assert np.ptp(levels_db) < 3


def test_levels(data, corpus):
    folder = next(data.glob("songs-*"))
    for item in corpus.items:
        audio, rate_hz = soundfile.read(folder / item.source)
        assert (audio.shape, rate_hz) == ((30 * 44100,), 44100)
        assert np.abs(audio).max() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
        seconds = audio.reshape(30, 44100).std(axis=1)
        # No second is silent, and few samples are at the peak.
        assert seconds.min() > 1e-3 and seconds.mean() > 0.02


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data, corpus, tmp_path, monkeypatch):
    # A relative folder, as in the documented command.
    monkeypatch.chdir(tmp_path)
    again = Path("again")
    again.mkdir()
    for path in [*data.glob("*.deb"), *data.glob("*.whl")]:
        (again / path.name).symlink_to(path)
    options = dataclasses.replace(OPTIONS, num_songs=2)
    fewer = prepare_corpus(tmp_path / "fewer", options, again)
    # Songs that the synthesizer played before do not matter.
    assert [item.digest for item in fewer.items] == [item.digest for item in corpus.items[:2]]
    folder = next(data.glob("songs-seed-0-*"))
    for number in range(2):
        name = f"{number:06d}.flac"
        assert (again / folder.name / name).read_bytes() == (folder / name).read_bytes()
    other = prepare_corpus(tmp_path / "other", dataclasses.replace(options, num_songs=1, seed=1), again)
    assert other.items[0].digest not in {item.digest for item in corpus.items}


def test_a_finished_corpus_needs_no_packages_and_lost_tasks_are_written_again(corpus, tmp_path, monkeypatch):
    task = corpus.folder / "tasks/tempo.parquet"
    before = task.read_bytes()
    task.unlink()
    again = prepare_corpus(corpus.folder, OPTIONS, tmp_path)
    assert (again.manifest, task.read_bytes()) == (corpus.manifest, before)
    for changes, complaint in (
        ({"num_songs": 11}, "with num_songs 10, not 11"),
        ({"seed": 1}, "with seed 0, not 1"),
        ({"sample_rate_hz": 16000}, "with sample_rate_hz 22050, not 16000"),
        ({"reader": "direct"}, "with reader prepared, not direct"),
    ):
        with pytest.raises(UsageError, match=complaint):
            prepare_corpus(corpus.folder, dataclasses.replace(OPTIONS, **changes), tmp_path)
    # Another version of the program, which draws other songs, does not write other labels.
    monkeypatch.setattr(songs, "MAX_BPM", 200)
    with pytest.raises(UsageError, match="with songs_sha256 "):
        prepare_corpus(corpus.folder, OPTIONS, tmp_path)
    assert task.read_bytes() == before


def test_rendered_songs_are_used_again_at_another_rate(data, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "compose", None)
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", str(data), "--num-songs", "10", "--sample-rate-hz", "16000", "--num-workers", "1"]
    main(arguments)
    prepared = resolve_corpus(
        "corpora/accompaniments-16000hz", corpora=Path(), sample_rate_hz=16000, clip_num_samples=1
    )
    assert {item.num_samples for item in prepared.items} == {30 * 16000}
    assert [item.tags for item in prepared.items] == [item.tags for item in corpus.items]


def test_a_song_that_cannot_be_rendered_is_left_out(data, tmp_path, monkeypatch):
    def render(task):
        if task.path.name == "000003.flac":
            raise RenderingError("mma failed: no reason")
        return render_song(task)

    monkeypatch.setattr(accompaniments, "render_song", render)
    corpus = prepare_corpus(tmp_path / "corpus", OPTIONS, data)
    assert skipped_sources(corpus.folder) == {"000003.flac": "not_rendered"}
    assert len(corpus.items) == len(corpus.for_task("mode").items) == 9
    with pytest.raises(ClmrError, match=r"1 of 10 songs cannot be rendered, such as 000003\.flac: mma failed"):
        prepare_corpus(tmp_path / "other", dataclasses.replace(OPTIONS, max_skipped_fraction=0.05), data)
    assert not (tmp_path / "other" / MANIFEST_FILE).exists()


def test_failures_of_the_tools_are_one_sentence(parts, drawn, tmp_path, monkeypatch):
    score = drawn[0].score()
    with pytest.raises(RenderingError, match=r"^mma failed: .*NOTHERE"):
        compose(score.replace(":ShuffleBoggie", ":NotHere"), parts)
    with pytest.raises(RenderingError, match=r"^mma failed: .*can't open file"):
        compose(score, dataclasses.replace(parts, mma=tmp_path / "gone"))
    broken = tmp_path / "broken.sf2"
    broken.write_bytes(b"RIFF")
    with pytest.raises(RenderingError, match=r"^broken\.sf2 cannot play it \(.+\)$"):
        render_song(RenderingTask(score, broken, parts, tmp_path / "song.flac"))
    assert [path.name for path in tmp_path.iterdir()] == ["broken.sf2"]
    with pytest.raises(RenderingError, match=r"^mma failed: No data created"):
        compose("Tempo 60\n1 C\n", parts)
    monkeypatch.setattr(rendering, "synthesize", lambda *_: np.zeros(9, np.float32))
    with pytest.raises(RenderingError, match=r"^it is silent$"):
        render_song(RenderingTask(score, parts.soundfonts[TRAINING], parts, tmp_path / "song.flac"))


def test_settings_of_the_user_do_not_reach_mma(parts, drawn, midi_files, monkeypatch, tmp_path):
    (tmp_path / "mmarc").write_text("Tempo 33\nVolume ppp\n")
    monkeypatch.chdir(tmp_path)
    for name in ("MMA_LIBPATH", "MMA_INCPATH", "MMA_HOME", "PYTHONPATH"):
        monkeypatch.setenv(name, str(tmp_path))
    assert compose(drawn[0].score(), parts) == midi_files[0]


def test_missing_and_doubled_packages_are_one_sentence(data, tmp_path):
    for pattern in ("mma_*.deb", "timgm6mb-soundfont_*.deb", "tinysoundfont-*.whl"):
        folder = tmp_path / pattern[:5]
        folder.mkdir()
        for path in [*data.glob("*.deb"), *data.glob("*.whl")]:
            if not path.match(pattern):
                (folder / path.name).symlink_to(path)
        with pytest.raises(UsageError, match=r" is missing; .+ --help` says .+, and --download fetches it\.$") as error:
            prepare_corpus(tmp_path / "corpus", OPTIONS, folder)
        assert pattern[:5] in str(error.value)
    doubled = tmp_path / "doubled"
    doubled.mkdir()
    (doubled / "mma_1_all.deb").touch()
    (doubled / "mma_2_all.deb").touch()
    with pytest.raises(UsageError, match=r"has mma_1_all\.deb and mma_2_all\.deb; keep one of them"):
        prepare_corpus(tmp_path / "corpus", OPTIONS, doubled)
    assert not (tmp_path / "corpus").exists()


def test_events_beyond_the_song_are_left_out(midi_files, parts):
    times = [event.t for event in midi_events(midi_files[0], parts)]
    assert times == sorted(times) and 27 < times[-1] < 30
