"""clmr-tf, or python -m clmr_tf: lists the commands and starts them.

clmr-tf                              what there is
clmr-tf train --corpus ~/Music       the same as `python -m clmr_tf.train --corpus ~/Music`
clmr-tf prepare gtzan --help         the same as `python -m pipelines.gtzan --help`
"""

import importlib
import sys
from collections.abc import Sequence

from clmr_tf import __version__
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import UsageError, suggestion

COMMANDS = {
    "train": "learn a representation of music from a folder of audio",
    "export": "write a trained encoder as a model folder that other programs load",
    "probe": "measure a model with a classifier on its embeddings",
    "embed": "write embeddings of files and folders",
    "tag": "name the tags of songs, by a model that has a head",
    "similar": "find the songs that sound like others",
    "augment": "write crops of a recording and their views as WAV",
    "convert": "make a model folder of a PyTorch checkpoint, or the other way round",
    "report": "put results into tables and pictures",
    "recipes": "list, show and run published rows",
}
"""Modules of this package, each with a `main`."""

CORPORA = {
    "demo": "the music that comes with clmr_tf",
    "folder": "a folder of audio files",
    "magnatagatune": "MagnaTagATune",
    "magnatagatune_clean": "MagnaTagATune with the split of its clean version",
    "msd": "the Million Song Dataset",
    "gtzan": "GTZAN",
    "fma": "the Free Music Archive's data set",
    "mtg_jamendo": "MTG-Jamendo",
    "billboard": "McGill Billboard",
    "debian_games": "music of games in Debian",
    "pseudo_tags": "tags of another model for a prepared corpus",
}
"""Modules of `pipelines`, each with a `main`."""


def main(arguments: Sequence[str]) -> None:
    """Starts the command that the first argument names, or lists all.

    Raises:
        UsageError: If there is no such command; and whatever it raises.
    """
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        stdout.print(_listing(), markup=False)
    elif name == "--version":
        stdout.print(f"clmr_tf {__version__}", markup=False)
    elif name in COMMANDS:
        command = importlib.import_module(f"clmr_tf.{name}")
        if hasattr(command, "__path__"):
            command = importlib.import_module(f"clmr_tf.{name}.__main__")
        command.main(rest)
    elif name == "prepare":
        _prepare(rest)
    else:
        advice = suggestion(name, [*COMMANDS, "prepare"], "`clmr-tf` alone lists them all.")
        raise UsageError(f"There is no command {name!r}; {advice}")


def _prepare(arguments: Sequence[str]) -> None:
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        stdout.print(_listing(), markup=False)
        return
    if name not in CORPORA:
        advice = suggestion(
            name, CORPORA, f"there are {', '.join(CORPORA)}; of your own files, `prepare folder MUSIC`."
        )
        raise UsageError(f"There is no corpus {name!r} to prepare; {advice}")
    importlib.import_module(f"pipelines.{name}").main(rest)


def _listing() -> str:
    width = max(map(len, [*COMMANDS, *CORPORA]))
    lines = [f"clmr_tf {__version__}: musical representations learned from audio, without labels.", "", "Commands:"]
    lines += [f"  clmr-tf {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    lines += ["", "Corpora, prepared for training:"]
    lines += [f"  clmr-tf prepare {name:<{width}}  {what}" for name, what in CORPORA.items()]
    return "\n".join([*lines, "", "Each explains its options with --help."])


def run() -> int:
    """The console script; returns the exit code."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(run())
