"""Accompaniments: songs rendered from generated scores, so their labels are exact.

    python -m pipelines.accompaniments --download

1,000 songs of 30 seconds: MMA (Musical MIDI Accompaniment) plays chord progressions drawn from a seed in 100 of its
grooves, and a synthesizer renders them with three soundfonts. The corpus has 38 tags of instruments and styles, and the
tasks "mode", "key" and "tempo". 700 songs are for training, 100 for validation and 200 for testing; the test soundfont
is used for no other songs. The same seed, number of songs and versions of all packages give the same bytes. Rendering
takes some minutes on two cores, and can be interrupted.

Source: Debian packages, tested with Debian 12. --download fetches them with apt-get, 32 MB, and tinysoundfont with pip;
nothing is installed, and root is not needed. Licences: MMA and its grooves GPL-2+; TimGM6mb GPL-2, sf_GMbank
(csound-soundfont) public domain, FluidR3Mono_GM MIT; tinysoundfont MIT.

Expected files, in data/accompaniments or the folder given with --data:

    mma_*.deb                            the Debian packages
    timgm6mb-soundfont_*.deb
    csound-soundfont_*.deb
    fluidr3mono-gm-soundfont_*.deb
    tinysoundfont-0.3.7-*.whl            from PyPI, for this version of Python

The rendered songs are put next to them (1.2 GB). With --reader prepared, you can delete them afterwards.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from clmr_tf.audio.isolation import WorkerCrashError, WorkerTimeoutError, run_in_workers
from clmr_tf.audio.listing import SkippedFile
from clmr_tf.config.command_line import parse_command
from clmr_tf.console import stdout
from clmr_tf.data.corpus import MANIFEST_FILE, Corpus
from clmr_tf.data.tasks import CorpusTask, Label, write_task
from clmr_tf.errors import ClmrError
from clmr_tf.files import write_atomically
from clmr_tf.hardware import num_usable_cores
from pipelines.accompaniments.instruments import INSTRUMENTS
from pipelines.accompaniments.rendering import RENDERING_VERSION, RenderingError, RenderingTask, render_song
from pipelines.accompaniments.songs import (
    GROOVES_TABLE,
    KEYS,
    MODES,
    SONG_SECONDS,
    TEMPO_CLASSES,
    Song,
    draw_songs,
    read_grooves,
)
from pipelines.accompaniments.tools import MMA, MMA_LICENCE, SOUNDFONTS, Tools, fetch_tools, find_tools
from pipelines.preparation.command import CorpusOptions, prepare_shown, shown_preparation, summarise
from pipelines.preparation.prepare import (
    Preparation,
    PrepareSettings,
    Progress,
    default_destination,
    opened_if_finished,
)
from pipelines.preparation.published import DATA as ALL_DATA
from pipelines.preparation.sources import SourceFile

NAME = "accompaniments"
DATA = ALL_DATA / NAME
STYLES = tuple(sorted({style for groove in read_grooves() for style in groove.styles}))
TAGS = (*INSTRUMENTS, *STYLES)
SONGS_FILE = "songs.jsonl"
NOT_RENDERED = "not_rendered"


@dataclasses.dataclass(frozen=True)
class Options(CorpusOptions):
    """The command line."""

    download: bool = False
    """Download missing files first; with this option, you accept the licences named above."""
    num_songs: int = 1000
    """Number of songs; with a multiple of 1000, every groove is in every split, in the same proportions."""
    seed: int = 0
    """Seed of all songs; another seed gives other songs."""


def prepare_corpus(destination: Path, settings: PrepareSettings, data: Path = DATA) -> Corpus:
    """Renders the songs and prepares the corpus with its tasks; continues or reuses an existing one, see `prepare`.

    Args:
        destination: Folder of the corpus.
        settings: How files are decoded; if they are `Options`, also the number of songs and the seed.
        data: Folder of the packages and of the rendered songs.

    Raises:
        UsageError: If a package is missing; see also `prepare`.
        ClmrError: If a package cannot be unpacked, or too many songs cannot be rendered; see also `prepare`.
    """
    options = settings if isinstance(settings, Options) else Options(**dataclasses.asdict(settings))
    songs = draw_songs(options.num_songs, options.seed, read_grooves())
    corpus = _finished(songs, destination, options)
    if corpus is None:
        corpus = _render_and_prepare(songs, destination, options, data)
    _write_beside(corpus, songs)
    return corpus


def _finished(songs: Sequence[Song], destination: Path, options: Options) -> Corpus | None:
    # A finished corpus needs neither the packages nor the rendered songs.
    if not (destination / MANIFEST_FILE).is_file():
        return None
    there = Corpus.open(destination).manifest
    outline = dataclasses.replace(
        there,
        sample_rate_hz=options.sample_rate_hz,
        storage=options.storage,
        source={**there.source, **_manifest_options(songs, options)},
    )
    return opened_if_finished(destination, outline, options.min_num_samples)


def _manifest_options(songs: Sequence[Song], options: Options) -> dict[str, str]:
    # The labels of a finished corpus are drawn again; another version of this program may draw other songs.
    scores = hashlib.sha256("".join(song.score() for song in songs).encode()).hexdigest()
    return {"num_songs": str(options.num_songs), "seed": str(options.seed), "songs_sha256": scores[:16]}


def _render_and_prepare(songs: Sequence[Song], destination: Path, options: Options, data: Path) -> Corpus:
    tools = find_tools(data)
    versions = {**tools.versions, "numpy": version("numpy"), "soundfile": version("soundfile")}
    made_with = ", ".join(f"{name} {number}" for name, number in versions.items())
    folder = data / _folder_of_songs(options.seed, versions)
    sources, skipped = _render(songs, tools, folder, options)
    return prepare_shown(
        Preparation(
            destination,
            PrepareSettings(**{f.name: getattr(options, f.name) for f in dataclasses.fields(PrepareSettings)}),
            sources,
            name=NAME,
            tag_names=TAGS,
            source_description=f"songs rendered with {made_with}; licences: {_licences()}",
            options=_manifest_options(songs, options),
            rejected=skipped,
        )
    )


def _folder_of_songs(seed: int, versions: Mapping[str, str]) -> str:
    # Songs of other versions may sound different, and a corpus with --reader direct still needs the old ones.
    grooves = hashlib.sha256(GROOVES_TABLE.read_bytes()).hexdigest()
    made_from = json.dumps([RENDERING_VERSION, versions, grooves], sort_keys=True)
    return f"songs-seed-{seed}-{hashlib.sha256(made_from.encode()).hexdigest()[:8]}"


def _render(
    songs: Sequence[Song], tools: Tools, folder: Path, options: Options
) -> tuple[list[SourceFile], list[SkippedFile]]:
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [
        RenderingTask(song.score(), tools.soundfonts[song.soundfont], tools, folder / f"{song.item_id}.flac")
        for song in songs
    ]
    outcomes = run_in_workers(
        render_song,
        tasks,
        num_workers=options.num_workers or num_usable_cores(),
        timeout_seconds=options.timeout_seconds,
    )
    sources: list[SourceFile] = []
    skipped: list[SkippedFile] = []
    with contextlib.closing(outcomes), shown_preparation(NAME, doing="Rendering") as on_progress:
        for song, task, outcome in zip(songs, tasks, outcomes, strict=True):
            source = task.path.name
            if outcome.error is None:
                tags = (*outcome.result, *song.groove.styles)
                sources.append(SourceFile(task.path, song.item_id, song.item_id, source, song.split, tags))
            elif isinstance(outcome.error, (RenderingError, WorkerTimeoutError, WorkerCrashError)):
                skipped.append(SkippedFile(source, NOT_RENDERED, str(outcome.error)))
            else:
                raise outcome.error
            num_done = len(sources) + len(skipped)
            on_progress(Progress(num_done, len(songs), len(skipped), len(sources) * SONG_SECONDS))
    if len(skipped) > options.max_skipped_fraction * len(songs):
        raise ClmrError(
            f"{len(skipped)} of {len(songs)} songs cannot be rendered, such as {skipped[0].source}: "
            f"{skipped[0].detail.rstrip('.')}."
        )
    return sources, skipped


def tasks_of(songs: Sequence[Song]) -> list[CorpusTask]:
    """The tasks "mode", "key" and "tempo" of some songs, with the splits of the corpus."""
    return [
        _task("mode", "Major or minor; the chords are those of the key.", MODES, {s: s.mode for s in songs}),
        _task("key", "Tonic and mode of the chords.", KEYS, {s: s.key for s in songs}),
        _task("tempo", "Beats per minute of the score.", TEMPO_CLASSES, {s: s.tempo_class for s in songs}),
    ]


def _task(name: str, description: str, classes: Sequence[str], labels: Mapping[Song, str]) -> CorpusTask:
    return CorpusTask(
        name=name,
        description=description,
        tag_names=tuple(classes),
        single_label=True,
        items={song.item_id: Label(song.split, (label,)) for song, label in labels.items()},
    )


def _write_beside(corpus: Corpus, songs: Sequence[Song]) -> None:
    tags = {item.id: item.tags for item in corpus.items}
    usable = [song for song in songs if song.item_id in tags]
    for task in tasks_of(usable):
        write_task(task, corpus.folder)
    rows = [json.dumps(_row(song, tags[song.item_id])) for song in usable]
    write_atomically(corpus.folder / SONGS_FILE, "\n".join(rows) + "\n")
    write_atomically(corpus.folder / "LICENCES.md", f"# Licences\n\nThe songs were rendered with {_licences()}.\n")


def _row(song: Song, tags: Sequence[str]) -> dict[str, object]:
    return {
        "id": song.item_id,
        "split": song.split,
        "soundfont": song.soundfont,
        "groove": song.groove.name,
        "beats_per_bar": song.groove.beats_per_bar,
        "bpm": song.bpm,
        "key": song.key,
        "tags": tags,
        "score": song.score(),
    }


def _licences() -> str:
    fonts = ", ".join(f"{name} ({font.package}: {font.licence})" for name, font in SOUNDFONTS.items())
    return f"{MMA} and its grooves ({MMA_LICENCE}) and the soundfonts {fonts}"


def main(arguments: Sequence[str]) -> None:
    """The command, without the program's name in `arguments`."""
    options = parse_command(Options, arguments, program=f"python -m pipelines.{NAME}", description=__doc__)
    data = (options.data or DATA).expanduser()
    if options.download:
        fetch_tools(data)
    corpus = prepare_corpus((options.out or default_destination(NAME, options)).expanduser(), options, data)
    stdout.print(summarise(corpus), markup=False)
