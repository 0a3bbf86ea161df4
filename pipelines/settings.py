"""The settings that every pipeline shares."""

import dataclasses
from typing import Literal

from clmr_tf.errors import UsageError


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
    """How a corpus is prepared."""

    sample_rate_hz: int = 22050
    """Sample rate of the corpus, in Hz."""
    min_num_samples: int = 59049
    """Shortest recording that is of use, in samples at that rate; the default is one clip, 2.68 seconds."""
    timeout_seconds: float = 300.0
    """Time limit for one file, in seconds; a healthy song takes less than one."""
    num_workers: int | None = None
    """Processes that decode; as many as there are cores if not given."""
    max_skipped_share: float = 0.5
    """Share of audio files, from 0 to 1, that may be unusable; more hints at a wrong folder or a bad disk."""
    reader: Literal["pcm", "direct"] = "pcm"
    """pcm: decode to 16-bit PCM, 2.6 MB a minute at 22050 Hz. direct: only check that training can decode."""

    def __post_init__(self) -> None:
        limits = {
            "sample_rate_hz": 1000 <= self.sample_rate_hz <= 768_000,
            "min_num_samples": self.min_num_samples >= 1,
            "timeout_seconds": self.timeout_seconds > 0,
            "num_workers": self.num_workers is None or self.num_workers >= 1,
            "max_skipped_share": 0 <= self.max_skipped_share <= 1,
        }
        for name, is_kept in limits.items():
            if not is_kept:
                raise UsageError(f"The setting {name} cannot be {getattr(self, name)}; see --help for what it means.")
