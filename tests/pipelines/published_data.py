"""Miniatures of published data sets: tables in their formats, and a few seconds of real audio."""

import json
from pathlib import Path

from pipelines.preparation.prepare import PrepareSettings
from tests.sounds import noise, write_sound

SETTINGS = PrepareSettings(min_num_samples=11025, num_workers=1)

_KINDS = {".mp3": "MP3", ".ogg": "OGG", ".wav": "WAV", ".aiff": "AIFF", ".au": "AU", ".flac": "FLAC"}


def write_clip(path: Path, seed: int, rate_hz: int = 16000) -> None:
    """Writes 0.8 seconds of noise, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sound(path, noise(0.8, rate_hz, seed), rate_hz, _KINDS[path.suffix])


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def skipped_sources(corpus: Path) -> dict[str, str]:
    """From source to reason, of every file that was left out."""
    rows = [json.loads(line) for line in (corpus / "skipped.jsonl").read_text().splitlines()]
    return {row["source"]: row["reason"] for row in rows}
