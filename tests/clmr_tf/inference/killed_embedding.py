"""Embeds a folder, then updates its table, again and again, each time killed before the next access to the table.

    python -m tests.clmr_tf.inference.killed_embedding MUSIC WORK

Forks, so that this costs one start of Python. The n-th process is killed by SIGKILL just before its n-th access. What
it left must be readable or unpublished, and the same command must complete it. Prints how many processes were killed.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from clmr_tf.audio.listing import find_audio
from clmr_tf.config.shards import Shard
from clmr_tf.errors import UsageError
from clmr_tf.inference import shards
from clmr_tf.inference.shards import (
    embed_shard,
    list_files,
    merge_shards,
    plan_update,
    shard_of,
    update_table,
)
from clmr_tf.inference.tables import SongTable, read_manifest
from tests.clmr_tf.inference.plain_encoder import DecoderInThisProcess, PlainEncoder

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "os.listdir", "shutil.rmtree"}


def embed(music: Path, table: Path) -> None:
    files = list_files(*find_audio([music]))
    for number in (1, 0):
        embed_shard(PlainEncoder(), shard_of(table, files, Shard(number, 2), files_per_part=2))
    merge_shards(table)


def update(music: Path, table: Path) -> None:
    files, manifest = list_files(*find_audio([music])), read_manifest(table)
    plan = plan_update(table, manifest, files, files_per_part=2)
    if plan.has_changes:
        update_table(PlainEncoder(), table, plan, manifest)
    # Removes the parts that were replaced.
    merge_shards(table)


def kill_before_access(number: int, table: str) -> None:
    num_seen = 0

    def on_event(event: str, arguments: tuple) -> None:
        nonlocal num_seen
        if event in EVENTS and isinstance(arguments[0], str | bytes | os.PathLike):
            num_seen += os.fsdecode(arguments[0]).startswith(table)
            if num_seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)


def in_a_process(call) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def content(table: Path) -> dict[str, bytes]:
    """All files, except the record of what each shard did."""
    files = [path for path in table.rglob("*") if path.is_file() and not path.match("shards/[0-9]*.json")]
    return {str(path.relative_to(table)): path.read_bytes() for path in files}


def songs(table: Path) -> list[str]:
    return [path for block in SongTable(table).blocks() for path in block.paths]


def kill_everywhere(command, music: Path, work: Path, before: Path | None) -> None:
    expected, table = work / "expected", work / "table"
    for folder in (expected, table):
        shutil.rmtree(folder, ignore_errors=True)
        if before:
            shutil.copytree(before, folder)
    old = songs(before) if before else None
    command(music, expected)
    number, status = 0, -signal.SIGKILL
    while status:
        number += 1
        shutil.rmtree(table, ignore_errors=True)
        if before:
            shutil.copytree(before, table)

        def killed(number=number) -> None:
            kill_before_access(number, str(table))
            command(music, table)

        status = in_a_process(killed)
        assert status in (0, -signal.SIGKILL), status
        try:
            assert songs(table) in (old, songs(expected))
        except UsageError:
            assert not before
        assert in_a_process(lambda: command(music, table)) == 0
        assert content(table) == content(expected), number
    sys.stdout.write(f"{number - 1}\n")


def run(music: Path, work: Path) -> None:
    shards.IsolatedDecoder = DecoderInThisProcess
    kill_everywhere(embed, music, work, None)
    before = work / "before"
    (work / "expected").rename(before)
    names = sorted(music.iterdir())
    names[1].unlink()
    names[2].write_bytes(names[0].read_bytes())
    (music / "song 2 new.wav").write_bytes(names[0].read_bytes())
    kill_everywhere(update, music, work, before)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
