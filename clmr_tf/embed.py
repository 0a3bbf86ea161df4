"""python -m clmr_tf.embed: writes embeddings of audio files and folders to a table.

python -m clmr_tf.embed ~/Music song.mp3 --model savedmodels/mine --out embeddings.npz
python -m clmr_tf.embed ~/Music --model savedmodels/mine --out music --update
python -m clmr_tf.embed ~/Music --model savedmodels/mine --out music --shard 3/16
python -m clmr_tf.embed --merge music
"""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from clmr_tf.cluster import ClusterOptions, ShardTask, run_on_cluster
from clmr_tf.config.command_line import INCLUDED_MODEL, Runtime, parse_command, require_model
from clmr_tf.config.shards import LOCK_TIMEOUT_SECONDS, Shard
from clmr_tf.console import printable, progress_bar, run_command, stdout
from clmr_tf.errors import UsageError

if TYPE_CHECKING:
    from clmr_tf.inference.shards import OnFile, TableShard
    from clmr_tf.inference.tables import ListedFile, Manifest

# 250 MB of audio. If the command is interrupted, the current part is lost.
_MAX_BATCH_SIZE = 1024
# Other kinds of tables, for which a folder would be surprising.
_OTHER_SUFFIXES = (".parquet", ".csv", ".json", ".npy")


@dataclasses.dataclass(frozen=True)
class EmbedConfig(ClusterOptions):
    """Settings of the command."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Audio files of any format, sample rate and length, or folders of audio files."""
    model: Path = INCLUDED_MODEL
    """Model folder or run folder. Default: the included model."""
    runtime: Runtime = "auto"
    """What runs the model. "auto" takes the fastest of those that are installed, have their file in the model folder,
    and compute in float32; "litert-int8" is not exact, and faster on processors with VNNI instructions."""
    out: Path = Path("embeddings.npz")
    """A file that ends in .npz, which is replaced, or the folder of a table; docs/embedding.md describes both."""
    hop_seconds: float | None = None
    """Time between the starts of two windows. Default: the length of a window, so that they do not overlap."""
    batch_size: int = 32
    """Windows per call of the encoder."""
    shard: str = ""
    """Embed only one shard of a table, such as 3/16, the fourth of sixteen; --merge makes a table of all of them."""
    merge: Path | None = None
    """The folder of a table whose shards are all finished: check them, and make one table of them."""
    update: bool = False
    """Embed only the files that are new or have changed since --out was written, and remove those that are gone or not
    below the given paths."""
    files_per_part: int = 256
    """Files in a part of a table. An interrupted command loses at most the part that it was at."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid values."""
        super().__post_init__()
        if not 1 <= self.batch_size <= _MAX_BATCH_SIZE:
            raise UsageError(f"--batch-size must be 1 to {_MAX_BATCH_SIZE}; received {self.batch_size}.")
        if self.files_per_part < 1:
            raise UsageError(f"--files-per-part must be at least 1; received {self.files_per_part}.")
        if self.shard:
            Shard.parse(self.shard)
        if self.shard and self.update:
            raise UsageError("--update runs in one process; give it without --shard.")
        if self.merge and (self.paths or self.shard or self.update):
            raise UsageError("--merge only merges shards that are finished; give it alone, without files or --shard.")
        if self.cluster != "none" and (self.shard or self.update):
            raise UsageError("--cluster embeds all shards; give it without --shard and --update.")
        if self.is_npz and (self.shard or self.update or self.cluster != "none"):
            raise UsageError(f"--shard, --update and --cluster need a folder for --out; received {self.out}.")
        if self.out.suffix in _OTHER_SUFFIXES:
            raise UsageError(f"--out must be a folder or a file that ends in .npz; received {self.out}.")

    @property
    def is_npz(self) -> bool:
        """Whether --out is a file."""
        return self.out.suffix == ".npz"


def main(arguments: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        ClmrError: If none of the files could be used.
    """
    config = parse_command(
        EmbedConfig, arguments, program="python -m clmr_tf.embed", description="Embeds files and folders of music."
    )
    if config.merge:
        _merge(config.merge.expanduser())
        return
    if not config.paths:
        raise UsageError("No music was given; give files or folders, as in `python -m clmr_tf.embed song.mp3`.")
    require_model(config.model)
    from clmr_tf.audio.listing import find_audio
    from clmr_tf.export.model_folder import recorded_hash
    from clmr_tf.files import exclusive_lock, require_writable
    from clmr_tf.inference.shards import (
        embed_npz,
        embed_shard,
        embed_table,
        list_files,
        settings_of,
        shard_of,
        take_over,
    )
    from clmr_tf.inference.tables import MANIFEST_FILE

    out = config.out.expanduser()
    if config.is_npz:
        require_writable(out, "--out")
    else:
        _require_folder(out)
    model_hash = recorded_hash(config.model.expanduser(), config.runtime)
    if model_hash is None and (config.shard or config.cluster != "none"):
        raise UsageError(
            f"--shard and --cluster need a model folder, so that all shards have the same weights; received "
            f"{config.model}, export it first by `python -m clmr_tf.export`."
        )
    files = list_files(*find_audio(config.paths))
    own = shard_of(
        out.with_name(f".{out.name}.parts") if config.is_npz else out,
        files,
        Shard.parse(config.shard) if config.shard else Shard(),
        files_per_part=config.files_per_part,
        hop_seconds=config.hop_seconds,
        batch_size=config.batch_size,
    )
    own.table.mkdir(exist_ok=True)
    lock = own.table / (f".lock-{own.shard.name}" if config.shard else ".lock")
    refusal = f"Another process is writing {out}; wait for it, or choose another --out."
    with exclusive_lock(lock, refusal, timeout_seconds=LOCK_TIMEOUT_SECONDS if config.shard else 0.0):
        if (own.table / MANIFEST_FILE).exists():
            _update(config, own.table, files, model_hash)
            return
        if not config.shard:
            _require_no_running_shard(own.table)
        if config.cluster != "none":
            manifest = _embed_on_cluster(config, own, model_hash)
            embedded = f"Embedded {manifest.num_songs} of {len(own.files)} files to {printable(str(out))}."
            stdout.print(embedded, markup=False)
            return
        # Imported only if something is embedded, because TensorFlow takes seconds to import.
        from clmr_tf.inference.encoder import load_encoder

        encoder = load_encoder(config.model, config.runtime)
        # That of an .npz file has only what a killed command left.
        if not config.shard and not config.is_npz:
            take_over(own, settings_of(encoder, own.hop_seconds))
        with _shown_files(len(own.files)) as on_file:
            if config.shard:
                summary = embed_shard(encoder, own, on_file)
                what, where = f"{len(own.files)} files of shard {own.shard}", f"{out}; merge all shards by --merge"
            else:
                summary = embed_npz(encoder, out, own, on_file) if config.is_npz else embed_table(encoder, own, on_file)
                what, where = f"{len(own.files)} files", str(out)
        stdout.print(f"Embedded {summary.num_songs} of {what} to {printable(where)}.", markup=False)


def _embed_on_cluster(config: EmbedConfig, whole: "TableShard", model_hash: str) -> "Manifest":
    """Embeds a table, each part in a shard of its own."""
    from clmr_tf.audio.decoding import decoder_versions
    from clmr_tf.inference.encoder import fastest_runtime, load_encoder
    from clmr_tf.inference.shards import has_finished_shards, merge_shards, opened_worker, settings_of, take_over

    absolute = dataclasses.replace(whole, table=whole.table.absolute())
    num_parts = -(-len(whole.files) // whole.files_per_part)
    shards = [absolute.only(Shard(number, num_parts)) for number in range(num_parts)]
    model = config.model.expanduser().absolute()
    # Otherwise each node might take another one.
    runtime = fastest_runtime(model) if config.runtime == "auto" else config.runtime
    if has_finished_shards(whole.table):
        take_over(whole, settings_of(load_encoder(model, runtime), whole.hop_seconds))
    run_on_cluster(
        config,
        functools.partial(opened_worker, model, model_hash, runtime, config.worker_cpus, decoder_versions()),
        [ShardTask(str(shard.shard), shard, len(shard.files)) for shard in shards],
        doing="Embedding",
    )
    return merge_shards(whole.table)


def _merge(table: Path) -> None:
    from clmr_tf.files import exclusive_lock
    from clmr_tf.inference.shards import merge_shards
    from clmr_tf.inference.tables import SONGS_FOLDER

    if not (table / SONGS_FOLDER).is_dir():
        raise UsageError(
            f"{table} is not the folder of a table; give --merge the folder that the shards have as --out."
        )
    with exclusive_lock(table / ".lock", f"Another process is writing {table}; wait for it."):
        _require_no_running_shard(table)
        manifest = merge_shards(table)
    stdout.print(f"{printable(str(table))} has {manifest.num_songs} songs.", markup=False)


def _require_no_running_shard(table: Path) -> None:
    from clmr_tf.files import exclusive_lock

    for lock in table.glob(".lock-*"):
        with exclusive_lock(lock, f"Another process is embedding a shard of {table}; wait for it."):
            pass


def _update(config: EmbedConfig, table: Path, files: Sequence["ListedFile"], model_hash: str | None) -> None:
    """Brings a complete table up to date; without --update, only checks that it is, and writes nothing."""
    from clmr_tf.inference.approximate_index import has_index, update_index
    from clmr_tf.inference.shards import plan_update, settings_of, update_table
    from clmr_tf.inference.tables import SongTable, read_manifest

    manifest = read_manifest(table)
    update = plan_update(table, manifest, files, config.files_per_part, retry=config.update)
    changes = f"{update.num_new} new or changed files and {update.num_vanished} that are gone"
    if update.num_retried:
        changes += f", and {update.num_retried} that could not be decoded before"
    if update.has_changes and not config.update:
        raise UsageError(f"{table} is complete, but there are {changes}; add --update, or choose another --out.")
    is_same_model = model_hash == manifest.settings.model_hash
    if update.has_changes or not is_same_model or config.hop_seconds is not None:
        from clmr_tf.inference.encoder import load_encoder

        encoder = load_encoder(config.model, config.runtime)
        hop_seconds = config.hop_seconds
        if hop_seconds is None:
            hop_seconds = manifest.settings.hop_num_samples / manifest.settings.sample_rate_hz
        manifest.settings.require_same(settings_of(encoder, hop_seconds), str(table), "this command")
    if update.has_changes:
        with _shown_files(update.num_files) as on_file:
            manifest = update_table(encoder, table, update, manifest, batch_size=config.batch_size, on_file=on_file)
    if config.update and has_index(table):
        update_index(SongTable(table))
    songs = f"{printable(str(table))} has {manifest.num_songs} songs"
    stdout.print(f"Updated for {changes}: {songs}." if update.has_changes else f"Nothing to do: {songs}.", markup=False)


@contextlib.contextmanager
def _shown_files(num_files: int) -> Iterator["OnFile"]:
    with progress_bar() as bar:
        task = bar.add_task("embedding", total=num_files)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _require_folder(out: Path) -> None:
    """Raises UsageError unless a folder is that of a table, empty, or can be created."""
    from clmr_tf.inference.tables import SONGS_FOLDER, foreign_file

    if not out.parent.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise UsageError(f"{out} cannot be written; give --out a folder or an .npz file in an existing folder.")
    is_table = out.is_dir() and (
        (out / SONGS_FOLDER).is_dir()
        # Another shard that has just started has only a lock.
        or all(path.name.startswith(".") for path in out.iterdir())
    )
    if out.exists() and not is_table:
        raise UsageError(f"{out} exists and is not a table of embeddings; choose another --out.")
    if foreign := foreign_file(out):
        raise UsageError(f"{foreign} does not belong to a table of embeddings; choose another --out.")


if __name__ == "__main__":
    sys.exit(run_command(main))
