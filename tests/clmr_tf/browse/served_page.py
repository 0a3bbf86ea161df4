"""The library page of a table, served in a thread of the test process."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from clmr_tf.browse.application import Browser, make_application
from clmr_tf.inference.encoder import Tagger
from clmr_tf.inference.library import Library


@contextlib.contextmanager
def served(table: Path, tagger: Tagger | None = None, port: int = 0) -> Iterator[int]:
    """Serves the page until the block ends; yields its port, which is free if none is given."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        application = make_application(Browser(Library(table), tagger))
        server = uvicorn.Server(uvicorn.Config(application, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.02)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
