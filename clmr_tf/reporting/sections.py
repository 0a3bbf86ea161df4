"""Sections of a report: what may stand in one table, since it was scored on the same clips with the same labels."""

import dataclasses
import json
import re
from collections.abc import Sequence

from clmr_tf.reporting.result_files import Result
from clmr_tf.reporting.rows import Row, rows_of


@dataclasses.dataclass(frozen=True)
class Section:
    """Everything about one corpus and task.

    Attributes:
        heading: Names it, and if another has the same names also its fingerprints.
        slug: The heading as part of a file name, which no other section has.
        rows: At least one, in the order of the tables.
        remarks: Sentences about files that repeat or contradict others.
    """

    heading: str
    slug: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]

    @property
    def first(self) -> Result:
        """A result that stands for all in what the section is about."""
        return self.rows[0].first


def sections_of(results: Sequence[Result]) -> list[Section]:
    """Parts results by corpus and task, of which fingerprints, tags and the size of the test split must be the same."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(_compared_by(result), []).append(result)
    names = [_heading(group[0]) for group in groups.values()]
    sections = []
    for name, group in zip(names, groups.values(), strict=True):
        heading = name if names.count(name) == 1 else _heading_with_fingerprints(group[0])
        if heading in (section.heading for section in sections):
            heading += f", {len(sections) + 1}"
        rows, remarks = rows_of(group)
        slug = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
        # Of a name in another script nothing is left.
        if not slug or slug in (section.slug for section in sections):
            slug = "-".join(filter(None, [slug, str(len(sections) + 1)]))
        sections.append(Section(heading, slug, tuple(rows), tuple(remarks)))
    return sorted(sections, key=lambda section: section.heading)


def _compared_by(result: Result) -> str:
    test = result.scores["test"]
    corpus = [result.corpus, result.corpus_fingerprint, result.task, result.task_fingerprint, result.single_label]
    return json.dumps([*corpus, result.tag_names, test["num_songs"], test["num_clips"]])


def _heading(result: Result) -> str:
    return result.corpus if result.task is None else f"{result.corpus}, task {result.task}"


def _heading_with_fingerprints(result: Result) -> str:
    fingerprints = filter(None, [result.corpus_fingerprint, result.task_fingerprint])
    return f"{_heading(result)} ({', '.join(fingerprint[:12] for fingerprint in fingerprints)})"
