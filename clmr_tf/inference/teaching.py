"""Teaching a tag with a few songs: a linear head on frozen embeddings, its precision, and which songs to mark next."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from clmr_tf.errors import UsageError, suggestion
from clmr_tf.export.model_folder import is_same_model
from clmr_tf.files import exclusive_lock
from clmr_tf.inference.library import Library, names_of
from clmr_tf.inference.similarity import normalized
from clmr_tf.models.heads import probabilities
from clmr_tf.models.taught_tags import (
    LinearHead,
    Mark,
    Precision,
    TaughtTag,
    TaughtTags,
    file_of_table,
    read_taught_tags,
)

MIN_MARKS_FOR_PRECISION = 5

# Inverse of the penalty on the squared weights. Of 1, 10, 100 and 1,000, it needed the fewest songs on real music.
_INVERSE_L2 = 100.0
_MAX_NUM_FOLDS = 20
_NORMAL_95_PERCENT = 1.96

Changes = tuple[tuple[Mark, ...], ...]


class Space:
    """Embeddings relative to those of a library: standardised by its mean and standard deviation, with norms around 1.

    Args:
        means: Mean embeddings of the songs of the library, float32 [songs, 512].
    """

    def __init__(self, means: np.ndarray) -> None:
        self._mean = means.mean(axis=0, dtype=np.float64)
        standard_deviation = means.std(axis=0, dtype=np.float64)
        # A constant dimension becomes 0.
        standard_deviation[standard_deviation == 0] = np.inf
        self._scale = 1 / (standard_deviation * np.sqrt(means.shape[1]))
        self.songs = self.points_of(means)
        self._unit_songs = normalized(self.songs)

    def points_of(self, vectors: np.ndarray) -> np.ndarray:
        """Embeddings [n, 512] as points of this space, float32 [n, 512]."""
        return ((vectors - self._mean) * self._scale).astype(np.float32)

    def for_embeddings(self, head: LinearHead) -> LinearHead:
        """The head that computes from embeddings what `head` computes from their points."""
        weights = head.weights * self._scale
        return LinearHead(weights.astype(np.float32), float(head.bias - weights @ self._mean))

    def offers(
        self, probabilities: np.ndarray, marked: Iterable[int], is_left_out: np.ndarray, count: int
    ) -> list[int]:
        """The songs that would teach a tag most: uncertain, and different from those marked and from each other.

        Args:
            probabilities: Probability of the tag for each song, [songs]; all 0.5 if nothing is known.
            marked: Rows of the songs that were marked already.
            is_left_out: Which songs are never offered, bool [songs].
            count: Maximal number of songs.
        """
        worth = 1 - np.abs(2 * probabilities - 1)
        greatest_cosine = np.full(len(self.songs), -1.0, np.float32)
        is_free = ~is_left_out
        chosen: list[int] = []

        def leave_out(row: int) -> None:
            is_free[row] = False
            np.maximum(greatest_cosine, self._unit_songs @ self._unit_songs[row], out=greatest_cosine)

        for row in marked:
            leave_out(row)
        for _ in range(min(count, int(is_free.sum()))):
            chosen.append(int(np.argmax(np.where(is_free, worth * (1 - greatest_cosine), -1))))
            leave_out(chosen[-1])
        return chosen


def fit_points(points: np.ndarray, is_yes: np.ndarray) -> LinearHead:
    """Fits a logistic regression in which all "yes" together weigh as much as all "no".

    The average song of the library, the origin, counts as one more "no", so a single "yes" is enough.

    Args:
        points: From `Space.points_of`, float32 [n, 512].
        is_yes: bool [n], at least one true.
    """
    # Imported late because it takes a second.
    from sklearn.linear_model import LogisticRegression

    origin = np.zeros((1, points.shape[1]), np.float32)
    model = LogisticRegression(C=_INVERSE_L2, class_weight="balanced")
    model.fit(np.concatenate([points, origin]), np.append(is_yes, False))
    return LinearHead(model.coef_[0].astype(np.float32), float(model.intercept_[0]))


def precision_of(points: np.ndarray, is_yes: np.ndarray, songs: np.ndarray) -> Precision | None:
    """Estimates precision from heads that have not seen the songs that they judge.

    Args:
        points: From `Space.points_of`, float32 [n, 512].
        is_yes: bool [n].
        songs: Song of each point, int [n]; all marks of a song are left out together.

    Returns:
        None below `MIN_MARKS_FOR_PRECISION` marks, and if no such head says yes: then it is unknown.
    """
    if len(points) < MIN_MARKS_FOR_PRECISION:
        return None
    # Dealt in turns, so that every fold has its share of yes and no.
    order = sorted(set(songs.tolist()), key=lambda song: (bool(is_yes[songs == song].any()), song))
    fold_of_song = {song: place % _MAX_NUM_FOLDS for place, song in enumerate(order)}
    folds = np.array([fold_of_song[song] for song in songs.tolist()])
    says_yes = np.zeros(len(points), bool)
    for fold in range(min(_MAX_NUM_FOLDS, len(order))):
        own = folds == fold
        if is_yes[~own].any():
            says_yes[own] = fit_points(points[~own], is_yes[~own]).logits(points[own]) > 0
    if not says_yes.any():
        return None
    return _with_interval(int(np.sum(says_yes & is_yes)), int(says_yes.sum()))


def _with_interval(num_right: int, num_marks: int) -> Precision:
    """A fraction with the interval of Wilson (1927)."""
    estimate, square = num_right / num_marks, _NORMAL_95_PERCENT**2 / num_marks
    middle = (estimate + square / 2) / (1 + square)
    half = np.sqrt(estimate * (1 - estimate) * square + square**2 / 4) / (1 + square)
    return Precision(estimate, float(max(middle - half, 0)), float(min(middle + half, 1)), num_marks)


def require_tag_name(name: str) -> None:
    """Raises UsageError if a name is empty or has control characters."""
    if not name.strip() or not name.isprintable():
        raise UsageError(f"A tag needs a name of printable characters; received {name!r}.")


class Teacher:
    """Teaches tags for a library; every change is written to the file beside its table at once.

    Args:
        library: The library.

    Attributes:
        library: The library.
        space: Its songs as points.

    Raises:
        UsageError: If the file of taught tags is damaged, or of another model.
    """

    def __init__(self, library: Library) -> None:
        self.library, self.space = library, Space(library.means)
        self._file = file_of_table(library.table)
        self.read()

    def read(self) -> TaughtTags:
        """The tags that were taught so far.

        Raises:
            UsageError: If the file is damaged, or of another model.
        """
        if not self._file.exists():
            return TaughtTags(self.library.model_hash)
        taught = read_taught_tags(self._file)
        if not is_same_model(taught.model_hash, self.library.model_hash):
            raise UsageError(
                f"{self._file} was taught with another model than that of {self.library.table}; move it away, or use "
                "the table of that model."
            )
        return taught

    def require(self, name: str) -> TaughtTag:
        """A tag by its name.

        Raises:
            UsageError: If there is none.
        """
        tags = self.read().tags
        if name not in tags:
            advice = suggestion(name, tags, f"there are: {', '.join(sorted(tags)) or 'none yet'}.")
            raise UsageError(f"There is no taught tag {name!r}; {advice}")
        return tags[name]

    def mark_of(self, path: str, answer: str, seconds: float | None = None) -> Mark:
        """A mark of a song that is named by any path of its file.

        A song that is no longer in the library can be unmarked, if it is marked.

        Raises:
            UsageError: If the song is not in the library, or an argument is invalid.
        """
        if answer == "unmarked" and self.library.find(path) is None:
            marked = {mark.path for tag in self.read().tags.values() for mark in tag.marks}
            for name in names_of(path):
                if name in marked:
                    return Mark(name, answer, seconds)
        row = self.library.row_of(path)
        mark = Mark(self.library.paths[row], answer, seconds)
        duration_seconds = self.library.durations_seconds[row]
        if seconds is not None and seconds > duration_seconds:
            raise UsageError(f"{path} is {duration_seconds:.1f} s long, so {seconds:g} s is past its end.")
        return mark

    def mark(self, name: str, marks: Sequence[Mark]) -> TaughtTag:
        """Adds a change to a tag, which is made if it is new, and fits its head again.

        Raises:
            UsageError: If the name is empty or has control characters.
        """
        require_tag_name(name)
        return self._change(name, lambda changes: (*changes, tuple(marks)))

    def undo(self, name: str) -> TaughtTag:
        """Takes back the last change of a tag; without any change left, the tag is gone.

        Raises:
            UsageError: If there is no such tag.
        """
        self.require(name)
        return self._change(name, lambda changes: changes[:-1])

    def remove(self, name: str) -> None:
        """Removes a tag with all its marks.

        Raises:
            UsageError: If there is no such tag.
        """
        self.require(name)
        self._change(name, lambda changes: ())

    def probabilities(self, tag: TaughtTag) -> np.ndarray:
        """Probability of a tag for the mean embedding of each song, float32 [songs]; 0.5 without a head."""
        if tag.head is None:
            return np.full(len(self.library.paths), 0.5, np.float32)
        return probabilities(tag.head.logits(self.library.means), single_label=False)

    def ranking(self, tag: TaughtTag) -> list[int]:
        """Rows of all songs that are not silent, the most likely first."""
        order = np.argsort(-self.probabilities(tag), kind="stable")
        return order[~self.library.is_silent[order]].tolist()

    def offers(self, tag: TaughtTag, count: int) -> list[int]:
        """Rows of the songs that would teach a tag most, see `Space.offers`; silent songs are never offered."""
        marked = {row for mark in tag.marks if (row := self.library.find(mark.path)) is not None}
        return self.space.offers(self.probabilities(tag), marked, self.library.is_silent, count)

    def _change(self, name: str, change: Callable[[Changes], Changes]) -> TaughtTag:
        lock = self._file.with_name(f".{self._file.name}.lock")
        with exclusive_lock(lock, f"Another process is changing {self._file}; try again."):
            taught = self.read()
            changes = change(taught.tags.get(name, TaughtTag()).changes)
            tag = self._fitted(TaughtTag(changes))
            tags = {**taught.tags, name: tag}
            if not changes:
                del tags[name]
            dataclasses.replace(taught, tags=tags).write(self._file)
        return tag

    def _fitted(self, tag: TaughtTag) -> TaughtTag:
        found = [(mark, row) for mark in tag.marks if (row := self.library.find(mark.path)) is not None]
        is_yes = np.array([mark.answer == "yes" for mark, _ in found], bool)
        if not is_yes.any():
            return tag
        points = self.space.points_of(np.stack([self._vector(mark, row) for mark, row in found]))
        head = self.space.for_embeddings(fit_points(points, is_yes))
        return dataclasses.replace(
            tag, head=head, precision=precision_of(points, is_yes, np.array([row for _, row in found]))
        )

    def _vector(self, mark: Mark, row: int) -> np.ndarray:
        return self.library.means[row] if mark.seconds is None else self.library.moment_of(row, mark.seconds)
