"""The option `--shard 3/16`: which contiguous part of a list of files a command takes."""

import dataclasses
import re
from collections.abc import Sequence

from clmr_tf.errors import UsageError

LOCK_TIMEOUT_SECONDS = 180.0
"""How long a shard waits for its lock: a network file system keeps that of a lost machine for its lease, which is 90
seconds by default on Linux."""

_MAX_NAMED = 10


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of several contiguous parts of a list.

    Attributes:
        number: From 0 to num_shards - 1.
        num_shards: At least 1.
    """

    number: int = 0
    num_shards: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads "3/16", the fourth of sixteen.

        Raises:
            UsageError: If it is something else.
        """
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        if not match or int(match[1]) >= int(match[2]):
            raise UsageError(f"--shard must be K/N, with K from 0 to N - 1, such as 3/16; received {text!r}.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.num_shards}"

    @property
    def name(self) -> str:
        """The shard in names of files, such as "00003-of-00016"."""
        return f"{self.number:05d}-of-{self.num_shards:05d}"

    def range_of(self, num_entries: int) -> range:
        """The entries of this shard in a list; the sizes of the shards differ by at most one."""
        return range(self.number * num_entries // self.num_shards, (self.number + 1) * num_entries // self.num_shards)


def named(shards: Sequence[Shard]) -> str:
    """Shards in a message: "0/16, 3/16", and for many only the first ten and how many more there are."""
    names = ", ".join(map(str, shards[:_MAX_NAMED]))
    return names if len(shards) <= _MAX_NAMED else f"{names} and {len(shards) - _MAX_NAMED} more"
