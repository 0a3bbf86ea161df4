"""Fetches MagnaTagATune and unpacks it."""

import io
from pathlib import Path

from clmr_tf.console import notes
from pipelines.downloads import RemoteFile, fetch
from pipelines.magnatagatune_clips import ANNOTATIONS, AUDIO, CLIP_INFO
from pipelines.unpacking import JoinedFiles, UnpackingLimits, unpack_zip

_HOST = "https://mirg.city.ac.uk/datasets/magnatagatune/"
# As https://github.com/p-lambda/jukemir found them (jukemir/assets/magnatagatune.json).
PARTS = (
    RemoteFile(
        "mp3.zip.001",
        f"{_HOST}mp3.zip.001",
        "sha256:f857fe185968773058cc71662c2ef5d8f2d4b7338e3c122cfd52f82dcb9760b9",
    ),
    RemoteFile(
        "mp3.zip.002",
        f"{_HOST}mp3.zip.002",
        "sha256:fc2e1ec441755556ed1398b1808f1b08b6034372f8bc27394510c0c58cdb52ce",
    ),
    RemoteFile(
        "mp3.zip.003",
        f"{_HOST}mp3.zip.003",
        "sha256:83a689824c17e82f6eb81cdbc4e4ca239a4cfc1fb41f1a5c80b861caec90450f",
    ),
)
TABLES = (
    RemoteFile(
        ANNOTATIONS,
        f"{_HOST}{ANNOTATIONS}",
        "sha256:99b94e95825d4fa576386a5367b9c96e0ec636e9f9c240aceb492f4728f68c3c",
    ),
    RemoteFile(
        CLIP_INFO,
        f"{_HOST}{CLIP_INFO}",
        "sha256:cb6108a10d3a91f0bfd7d2fbec2382559d15f20c8d28093f14e12162a47a3e78",
    ),
)
# 25,863 clips of 117 kB are 3 GB.
_LIMITS = UnpackingLimits(num_bytes=8 * 10**9, num_files=50_000)
_UNPACKED = "audio-is-complete"


def download(data: Path) -> None:
    """Brings tables and audio into `data`; what is there is left alone, and an interrupted start goes on.

    The three parts of the archive are read as one and stay where they are.

    Raises:
        UsageError: As `fetch` and `unpack_zip`.
        ClmrError: As `fetch`.
    """
    for table in TABLES:
        fetch(table, data)
    if (data / _UNPACKED).is_file():
        return
    parts = [fetch(part, data) for part in PARTS]
    notes.print(f"Unpacking the music into {data / AUDIO} ...", markup=False)
    with io.BufferedReader(JoinedFiles(parts), 2**20) as archive:
        unpack_zip(archive, data / AUDIO, _LIMITS)
    (data / _UNPACKED).touch()
    notes.print(f"{data}/mp3.zip.001 to 003 are not needed any more.", markup=False)
