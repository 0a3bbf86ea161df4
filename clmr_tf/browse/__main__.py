"""python -m clmr_tf.browse: opens a page to look at, listen to and search the songs of a table of embeddings.

python -m clmr_tf.browse music
python -m clmr_tf.browse music --model savedmodels/mine
"""

import contextlib
import dataclasses
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from clmr_tf.config.command_line import INCLUDED_MODEL, parse_command, require_model
from clmr_tf.console import printable, run_command, stderr, stdout
from clmr_tf.errors import UsageError, install_extra

if TYPE_CHECKING:
    from clmr_tf.inference.encoder import Tagger
    from clmr_tf.inference.library import Library

_LOOPBACK = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class BrowseConfig:
    """Settings of the command."""

    table: tyro.conf.Positional[Path | None] = None
    """Table written by `python -m clmr_tf.embed`: an .npz file or a folder. The map and the taught tags are kept
    beside it, in TABLE.map.npz and TABLE.tags.json."""
    model: Path | None = None
    """Model or run folder that the table was made with, for its tags. Default: the included model, if it was that."""
    port: int = 8017
    """Port to listen on; 0 picks a free one."""
    write_for_viewers: Path | None = None
    """Instead of opening the page, write songs, map, tags and neighbours into this folder, for Embedding Atlas and
    TensorBoard's projector; docs/library.md says how they open it."""
    open: bool = True
    """Open the page in a browser."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid values."""
        if not 0 <= self.port < 2**16:
            raise UsageError(f"--port must be 0 to 65535; received {self.port}.")


def main(arguments: Sequence[str]) -> None:
    """Runs the command until it is interrupted."""
    config = parse_command(
        BrowseConfig, arguments, program="python -m clmr_tf.browse", description="Opens a page with all songs."
    )
    if config.table is None:
        raise UsageError("No table was given; give one written by `python -m clmr_tf.embed`.")
    if config.model:
        require_model(config.model)
    try:
        import uvicorn

        from clmr_tf.browse.application import Browser, make_application
    except ImportError as error:
        raise UsageError(f"The page needs {error.name}; {install_extra('browse')}.") from error
    from clmr_tf.inference.library import Library

    if config.write_for_viewers:
        from clmr_tf.browse.viewers import write_for_viewers

        library = Library(config.table.expanduser())
        browser = Browser(library, _tagger(config.model, library))
        folder = config.write_for_viewers.expanduser()
        write_for_viewers(folder, library, browser.complete_layout(), browser.probabilities())
        stdout.print(f"Wrote {len(library.paths)} songs to {printable(str(folder))}.", markup=False)
        return
    with _listening(config.port) as listening:
        library = Library(config.table.expanduser())
        browser = Browser(library, _tagger(config.model, library))
        address = f"http://{_LOOPBACK}:{listening.getsockname()[1]}/"
        stdout.print(f"{len(library.paths)} songs at {address} (Ctrl+C ends it)", markup=False)
        if config.open:
            # A browser of the terminal would keep this thread until it is closed.
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        # The last one, because browsers hold songs that they have not read to their end.
        settings = {"log_level": "warning", "server_header": False, "timeout_graceful_shutdown": 1}
        server = uvicorn.Server(uvicorn.Config(make_application(browser), **settings))
        # To interrupt it is how it ends.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def _listening(port: int) -> socket.socket:
    """A socket of this machine only; it is opened first, since reading a large table takes a while."""
    listening = socket.socket()
    # A port is free again as soon as the last page was closed.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_LOOPBACK, port))
        # From now on, a browser that comes early waits.
        listening.listen()
    except OSError as error:
        listening.close()
        raise UsageError(
            f"Port {port} of this machine cannot be used ({error.strerror}); choose another --port, or 0 for any."
        ) from error
    return listening


def _tagger(model: Path | None, library: "Library") -> "Tagger | None":
    """The tags of the given model, or of the included one if the table was made with it."""
    from clmr_tf.export.model_folder import is_same_model, recorded_hash
    from clmr_tf.inference.encoder import load_encoder, tagger_of_model

    folder = (model or INCLUDED_MODEL).expanduser()
    model_hash = recorded_hash(folder, "auto")
    # Only a run folder has to be loaded, which takes seconds.
    encoder = None if model_hash else load_encoder(folder)
    if not is_same_model(model_hash or encoder.model_hash, library.model_hash):
        if not model:
            table = printable(str(library.table))
            advice = "give it with --model for its tags"
            stderr.print(f"{table} was made with another model than the included one; {advice}.", markup=False)
            return None
        raise UsageError(
            f"{library.table} was made with another model than {model}; give that model with --model, or none."
        )
    tagger = encoder.tagger if encoder else tagger_of_model(folder)
    if model and tagger is None:
        stderr.print(f"The model {printable(str(model))} has no head, so there are only taught tags.", markup=False)
    return tagger


if __name__ == "__main__":
    sys.exit(run_command(main))
