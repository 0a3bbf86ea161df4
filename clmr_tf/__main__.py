"""clmr-tf, or python -m clmr_tf: lists and runs the commands.

clmr-tf                              lists the commands
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
    "train": "train an encoder on a folder of audio",
    "export": "write a trained encoder as a model folder that other programs load",
    "probe": "evaluate a model with a classifier on its embeddings",
    "embed": "write embeddings of files and folders",
    "tag": "tag songs with a model that has a head",
    "similar": "find similar songs",
    "teach": "teach a tag with a few songs",
    "browse": "open a page to look at, listen to and search a library",
    "augment": "write augmented views of a recording as WAV",
    "convert": "convert PyTorch checkpoints to model folders and back",
    "report": "make tables and plots of results",
    "recipes": "list, show and run published experiments",
}
"""Modules of this package, each with a `main`."""

CORPORA = {
    "demo": "the music included in clmr_tf",
    "folder": "a folder of audio files",
    "magnatagatune": "MagnaTagATune",
    "magnatagatune_clean": "MagnaTagATune with the split of its clean version",
    "msd": "the Million Song Dataset",
    "gtzan": "GTZAN",
    "fma": "the Free Music Archive data set",
    "mtg_jamendo": "MTG-Jamendo",
    "billboard": "McGill Billboard",
    "debian_games": "game music from Debian packages",
    "accompaniments": "generated songs with exact labels",
    "pseudo_tags": "tags predicted by another model, for a prepared corpus",
    "merge": "the shards that --shard prepared, or a corpus of an older version",
}
"""Modules of `pipelines`, each with a `main`."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command named by the first argument, or lists all commands.

    Raises:
        UsageError: If there is no such command.
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
        advice = suggestion(name, [*COMMANDS, "prepare"], "`clmr-tf` lists all commands.")
        raise UsageError(f"There is no command {name!r}; {advice}")


def _prepare(arguments: Sequence[str]) -> None:
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        stdout.print(_listing(), markup=False)
        return
    if name not in CORPORA:
        advice = suggestion(
            name, CORPORA, f"choose from {', '.join(CORPORA)}; for your own files, use `prepare folder MUSIC`."
        )
        raise UsageError(f"There is no corpus {name!r}; {advice}")
    importlib.import_module(f"pipelines.{name}").main(rest)


def _listing() -> str:
    width = max(map(len, [*COMMANDS, *CORPORA]))
    lines = [f"clmr_tf {__version__}: self-supervised music representations from raw audio.", "", "Commands:"]
    lines += [f"  clmr-tf {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    lines += ["", "Corpora to prepare for training:"]
    lines += [f"  clmr-tf prepare {name:<{width}}  {what}" for name, what in CORPORA.items()]
    return "\n".join([*lines, "", "--help after a command shows its options."])


def run() -> int:
    """The console script; returns the exit code."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(run())
