"""ATTRIBUTION.md: who made the music of the demo corpus, under which licence, and what was changed."""

from collections.abc import Sequence

from pipelines.demo_data.excerpts import EXCERPT_SECONDS, SAMPLE_RATE_HZ
from pipelines.demo_data.tables import LICENCE_URLS, Track

ATTRIBUTION_FILE = "ATTRIBUTION.md"

_PREFACE = """\
# The music of the demo corpus

<!-- Written by `python -m pipelines.demo_data.build`; change selection.csv, not this page. -->

The files in `audio/` are excerpts of other people's music. **The licence of this repository does not cover
them: every excerpt stays under the licence of the track it was taken from**, which is named with it below.
Where that is a ShareAlike licence (CC-BY-SA), the excerpt, and whatever audio is made from it, is offered under
that licence. None of the authors endorses this project. The tracks come with games that Debian distributes;
`licence_note` in `tracks.csv` quotes where the package states each licence.

What was changed in every excerpt: {seconds} s were cut out of the track (the loudest {seconds} s on a grid of
5 s; the list says where they begin), the channels averaged to mono, the audio resampled to {rate:,} Hz, a
constant offset removed, the level lowered where it would have clipped, and the result encoded again as Ogg
Vorbis.
"""


def attribution_text(tracks: Sequence[Track]) -> str:
    """The text of ATTRIBUTION.md: a preface, the licences, and an entry for each track by class."""
    sections = [_PREFACE.format(seconds=EXCERPT_SECONDS, rate=SAMPLE_RATE_HZ), _licences(tracks)]
    for class_name in dict.fromkeys(track.class_name for track in tracks):
        of_class = [track for track in tracks if track.class_name == class_name]
        entries = "\n".join(_entry(track) for track in of_class)
        sections.append(f"## {class_name}\n\n{entries}\n")
    return "\n".join(sections)


def _licences(tracks: Sequence[Track]) -> str:
    used = sorted({track.licence for track in tracks})
    num_tracks = {name: sum(track.licence == name for track in tracks) for name in used}
    lines = (f"- {name}: {LICENCE_URLS[name]} ({num_tracks[name]} tracks)" for name in used)
    return "## Licences\n\n" + "\n".join(lines) + "\n"


def _entry(track: Track) -> str:
    end_seconds = track.start_seconds + EXCERPT_SECONDS
    return (
        f"- **{track.title}** by {track.author}, [{track.licence}]({LICENCE_URLS[track.licence]}). "
        f"Excerpt `{track.file}`: seconds {track.start_seconds} to {end_seconds} of `{track.source_path}` "
        f"in the Debian package {track.package} {track.package_version}."
    )
