"""The peak memory of a process."""

import re
import resource
import sys
from pathlib import Path


def peak_memory_mb() -> int:
    """Returns the peak resident memory of this process in units of 2^20 bytes.

    Linux is read from /proc, since `resource.getrusage` there inherits the peak of the parent process.
    """
    if sys.platform == "darwin":
        # macOS reports bytes.
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return round(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024)
