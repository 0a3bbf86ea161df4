"""Makes a corpus of its shards.

    python -m pipelines.folder ~/Music --out corpora/music --shard 0/2      # anywhere, in any order, several at once
    python -m pipelines.folder ~/Music --out corpora/music --shard 1/2
    python -m pipelines.merge corpora/music

The shards must be finished and made alike: the same settings, list of files and versions. No audio is copied, and the
result is the same for any number of shards. The command also converts a corpus that an older version prepared.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from clmr_tf.config.command_line import parse_command
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import UsageError
from pipelines.preparation.command import summarise
from pipelines.preparation.first_format import convert, is_in_first_format
from pipelines.preparation.merging import merge


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line."""

    folder: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="CORPUS")]] = None
    """Folder of the corpus."""
    max_skipped_fraction: float = 0.5
    """Fraction of the audio files, from 0 to 1, that may be unusable."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_skipped_fraction <= 1:
            raise UsageError(f"--max-skipped-fraction must be from 0 to 1; received {self.max_skipped_fraction:g}.")


def main(arguments: Sequence[str]) -> None:
    """The command, without the program's name in `arguments`."""
    options = parse_command(Options, arguments, program="python -m pipelines.merge", description=__doc__)
    if options.folder is None:
        raise UsageError("Give the folder of the corpus, such as corpora/music.")
    folder = options.folder.expanduser()
    if is_in_first_format(folder):
        convert(folder)
    stdout.print(summarise(merge(folder, options.max_skipped_fraction)), markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
