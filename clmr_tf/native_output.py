"""What libraries in C++ write to standard error past every setting of Python and of their own."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def native_errors_held_back() -> Iterator[None]:
    """Keeps what is written to standard error meanwhile from the user, unless an error ends the block.

    All threads of the process are affected, so it is for what is short and done before anything else is.
    """
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            written.seek(0)
            while block := written.read(1 << 16):
                os.write(standard_error, block)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)
