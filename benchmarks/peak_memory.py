"""The most memory that a process has used."""

import re
import resource
import sys
from pathlib import Path


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, in units of 2^20 bytes.

    From Linux' own books, since `resource.getrusage` begins there with the peak of whatever started this process.
    """
    if sys.platform == "darwin":
        # In bytes.
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return round(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024)
