"""The command line that every pipeline of a published data set has."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from clmr_tf.command_line import parse_command
from clmr_tf.console import results
from clmr_tf.corpus import Corpus
from pipelines.destination import default_destination
from pipelines.progress import summarise
from pipelines.settings import PrepareSettings


@dataclasses.dataclass(frozen=True)
class CorpusOptions(PrepareSettings):
    """Where files are, besides how they are prepared."""

    data: Path | None = None
    """Folder with the published files, laid out as described above; if not given, the one named there."""
    out: Path | None = None
    """Folder that becomes the corpus: new, empty, or interrupted; if not given, the one in corpora/ that --corpus
    and the name of this data set means to other commands."""


@dataclasses.dataclass(frozen=True)
class DownloadOptions(CorpusOptions):
    """The same for data sets that anyone may fetch."""

    download: bool = False
    """Fetch what is missing first; you accept the licence that is named above."""


Options = TypeVar("Options", bound=CorpusOptions)


def run_pipeline(
    arguments: Sequence[str],
    prepare: Callable[[Path, Options], Corpus],
    *,
    options_type: type[Options],
    name: str,
    description: str,
) -> None:
    """Reads the command line, prepares the corpus and says what it holds.

    Args:
        arguments: The command line without the program's name.
        prepare: Makes the corpus from its destination and the options.
        options_type: What the command line may hold.
        name: Name of the pipeline.
        description: What `--help` says.
    """
    options = parse_command(options_type, arguments, program=f"python -m pipelines.{name}", description=description)
    corpus = prepare(options.out or default_destination(name, options), options)
    results.print(summarise(corpus), markup=False)
