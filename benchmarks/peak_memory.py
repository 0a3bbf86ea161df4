"""The most memory that a process has used."""

import re
from pathlib import Path


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, in units of 2^20 bytes.

    From Linux' own books, since `resource.getrusage` begins with the peak of whatever started this process.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return round(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024)
