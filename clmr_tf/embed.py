"""python -m clmr_tf.embed: writes embeddings of audio files and folders to one file.

python -m clmr_tf.embed ~/Music song.mp3 --model savedmodels/mine --out embeddings.npz
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from clmr_tf.config.command_line import INCLUDED_MODEL, parse_command, require_model
from clmr_tf.console import printable, progress_bar, run_command, stdout
from clmr_tf.errors import UsageError

# 250 MB of audio. If the command is interrupted, the current batch is lost.
_MAX_BATCH_SIZE = 1024


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """Settings of the command."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Audio files of any format, sample rate and length, or folders of audio files."""
    model: Path = INCLUDED_MODEL
    """Model folder or run folder. Default: the model that a checkout includes."""
    out: Path = Path("embeddings.npz")
    """File to write, .npz or .parquet; docs/embedding.md describes it. An existing file is replaced."""
    hop_seconds: float | None = None
    """Time between the starts of two windows. Default: the length of a window, so that they do not overlap."""
    batch_size: int = 32
    """Windows per call of the encoder."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid values."""
        if not 1 <= self.batch_size <= _MAX_BATCH_SIZE:
            raise UsageError(f"--batch-size must be 1 to {_MAX_BATCH_SIZE}; received {self.batch_size}.")


def main(arguments: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        ClmrError: If none of the files could be used.
    """
    config = parse_command(
        EmbedConfig, arguments, program="python -m clmr_tf.embed", description="Embeds files and folders of music."
    )
    if not config.paths:
        raise UsageError("No music was given; give files or folders, as in `python -m clmr_tf.embed song.mp3`.")
    require_model(config.model)
    # Imported after the options are checked, because TensorFlow takes seconds to import.
    from clmr_tf.audio.listing import find_audio
    from clmr_tf.inference.embeddings import embed_files, require_table_name, usable
    from clmr_tf.inference.encoder import load_encoder

    out = config.out.expanduser()
    require_table_name(out)
    files, unlisted = find_audio(config.paths)
    encoder = load_encoder(config.model)
    with progress_bar() as bar:
        task = bar.add_task("embedding", total=len(files))
        embedded, skipped = embed_files(
            encoder,
            files,
            out,
            unlisted=unlisted,
            hop_seconds=config.hop_seconds,
            batch_size=config.batch_size,
            on_file=lambda done, of: bar.update(task, completed=done, total=of),
        )
    num_embedded = sum(1 for _ in usable([*skipped, *embedded]))
    num_given = len(files) + len(unlisted)
    stdout.print(f"Embedded {num_embedded} of {num_given} files to {printable(str(out))}.", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
