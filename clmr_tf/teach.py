"""python -m clmr_tf.teach: teaches a tag with a few songs of a table of embeddings.

python -m clmr_tf.teach music --tag "guitar solo" --yes a.mp3 b.mp3@1:15 --no c.mp3
python -m clmr_tf.teach music --labels labels.csv
python -m clmr_tf.teach music --tag "guitar solo" --undo
python -m clmr_tf.tag song.mp3 --taught music
"""

import csv
import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from clmr_tf.config.command_line import parse_command
from clmr_tf.console import printable, run_command, stdout
from clmr_tf.errors import UsageError

if TYPE_CHECKING:
    from clmr_tf.inference.teaching import Teacher
    from clmr_tf.models.taught_tags import Mark, TaughtTag

_COLUMNS = {"path", "answer", "tag", "seconds"}


@dataclasses.dataclass(frozen=True)
class TeachConfig:
    """Settings of the command."""

    table: tyro.conf.Positional[Path | None] = None
    """Table written by `python -m clmr_tf.embed`: an .npz file or a folder. The tags are kept beside it, in
    TABLE.tags.json."""
    tag: str = ""
    """The tag. Without any marks, its state is shown; without a tag, all tags are listed."""
    yes: tuple[str, ...] = ()
    """Songs of the table that have the tag. FILE@1:15 is a moment of a song."""
    no: tuple[str, ...] = ()
    """Songs or moments that do not have it."""
    unmark: tuple[str, ...] = ()
    """Songs or moments to unmark, also those that are no longer in the table."""
    labels: Path | None = None
    """CSV file with the columns path and answer (yes, no or unmarked), and optionally tag (default: --tag) and
    seconds."""
    undo: bool = False
    """Undo the last change of the tag: everything that one command or click marked."""
    remove: bool = False
    """Remove the tag with all its marks."""
    top: int = 20
    """Number of songs to show, the most likely first."""
    offers: int = 5
    """Number of unmarked songs to suggest for marking."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid values."""
        if min(self.top, self.offers) < 0:
            raise UsageError(f"--top and --offers must be at least 0; received {self.top} and {self.offers}.")
        num_actions = sum([self.undo, self.remove, self.has_marks])
        if num_actions > 1:
            raise UsageError("--undo, --remove and marks are different changes; give one of them.")
        if not self.tag and (self.yes or self.no or self.unmark or self.undo or self.remove):
            raise UsageError('Marks need a tag; give its name, as in --tag "guitar solo".')

    @property
    def has_marks(self) -> bool:
        """Whether something is marked."""
        return bool(self.yes or self.no or self.unmark or self.labels)


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        TeachConfig, arguments, program="python -m clmr_tf.teach", description="Teaches a tag with a few songs."
    )
    if config.table is None:
        raise UsageError("No table was given; give one written by `python -m clmr_tf.embed`.")
    # Imported after the options are checked, because that takes a second.
    from clmr_tf.inference.library import Library
    from clmr_tf.inference.teaching import Teacher

    teacher = Teacher(Library(config.table.expanduser()))
    if config.remove:
        teacher.remove(config.tag)
        stdout.print(f"Removed {config.tag}.", markup=False)
        return
    if config.undo:
        teacher.undo(config.tag)
    marks = _marks(config, teacher)
    for name, of_tag in marks.items():
        teacher.mark(name, of_tag)
    tags = teacher.read().tags
    shown = marks or ([config.tag] if config.tag else tags)
    for name in shown:
        if name in tags:
            _show(name, tags[name], teacher, config)
        elif config.undo:
            stdout.print(f"{name} no longer has any marks.", markup=False)
        else:
            teacher.require(name)
    if not shown:
        stdout.print('No tag was taught yet; give --tag "guitar solo" --yes song.mp3.', markup=False)


def _marks(config: TeachConfig, teacher: "Teacher") -> dict[str, list["Mark"]]:
    """Marks of the command line and of the CSV file, by tag."""
    marks: dict[str, list[Mark]] = {}
    answers = {"yes": config.yes, "no": config.no, "unmarked": config.unmark}
    for answer, places in answers.items():
        for place in places:
            marks.setdefault(config.tag, []).append(_mark(place, answer, teacher))
    for name, mark in _read_labels(config, teacher):
        marks.setdefault(name, []).append(mark)
    return marks


def _mark(place: str, answer: str, teacher: "Teacher") -> "Mark":
    """A song, or FILE@MINUTES:SECONDS."""
    path, seconds = place, None
    moment = re.fullmatch(r"(.+)@(?:(\d+):)?(\d+(?:\.\d+)?)", place)
    if moment and teacher.library.find(place) is None:
        path, seconds = moment[1], 60 * int(moment[2] or 0) + float(moment[3])
    return teacher.mark_of(path, answer, seconds)


def _read_labels(config: TeachConfig, teacher: "Teacher") -> Iterator[tuple[str, "Mark"]]:
    if config.labels is None:
        return
    from clmr_tf.inference.teaching import require_tag_name

    try:
        with config.labels.expanduser().open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            # Rows may be blank or have several lines.
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"The labels {config.labels} cannot be read ({error}); give a CSV file in UTF-8.") from error
    if not {"path", "answer"} <= set(columns) <= _COLUMNS:
        raise UsageError(
            f"{config.labels} needs a first line with the columns path, answer and optionally tag and seconds; "
            f"received {', '.join(columns) or 'nothing'}."
        )
    for number, row in rows:
        where = f"Line {number} of {config.labels}"
        if None in row:
            raise UsageError(f"{where} has more cells than the first line; put cells with commas in quotes.")
        name = row.get("tag") or config.tag
        if not name:
            raise UsageError(f"{where} has no tag; add a column tag, or give --tag.")
        try:
            seconds = float(row["seconds"]) if row.get("seconds") else None
        except ValueError as error:
            raise UsageError(f"{where} has seconds {row['seconds']!r}; give a number, or nothing.") from error
        try:
            require_tag_name(name)
            mark = teacher.mark_of(row["path"] or "", (row["answer"] or "").strip().lower(), seconds)
        except UsageError as error:
            raise UsageError(f"{where} is not valid: {error}") from error
        yield name, mark


def _show(name: str, tag: "TaughtTag", teacher: "Teacher", config: TeachConfig) -> None:
    answers = [mark.answer for mark in tag.marks]
    marked = f"{printable(name)}: {answers.count('yes')} yes, {answers.count('no')} no"
    stdout.print(f"{marked}. {describe_precision(tag)}", markup=False)
    gone = [mark for mark in tag.marks if teacher.library.find(mark.path) is None]
    if gone:
        stdout.print("Marked, but no longer in the table (--unmark takes a mark back):", markup=False)
    for mark in gone:
        moment = "" if mark.seconds is None else f"@{mark.seconds}"
        stdout.print(f"  {mark.answer}  {printable(mark.path)}{moment}", markup=False)
    probabilities, paths = teacher.probabilities(tag), teacher.library.paths
    answer_of = {mark.path: mark.answer for mark in tag.marks if mark.seconds is None}
    if tag.head:
        for row in teacher.ranking(tag)[: config.top]:
            answer = f"  ({answer_of[paths[row]]})" if paths[row] in answer_of else ""
            stdout.print(f"  {probabilities[row]:.3f}  {printable(paths[row])}{answer}", markup=False)
    offers = teacher.offers(tag, config.offers)
    if offers:
        stdout.print("Mark these next; they would improve the tag most:", markup=False)
    for row in offers:
        stdout.print(f"  {probabilities[row]:.3f}  {printable(paths[row])}", markup=False)


def describe_precision(tag: "TaughtTag") -> str:
    """The precision of a tag in a sentence."""
    if tag.precision is None:
        return "Precision: unknown."
    one = tag.precision
    return (
        f"Precision: {one.estimate:.2f} (95 %: {one.low:.2f} to {one.high:.2f}), cross-validated; "
        f"{one.num_marks} marked songs or moments were predicted to have the tag."
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
