"""python -m clmr_tf.embed: embeddings of files and folders of music, in one file.

python -m clmr_tf.embed ~/Music song.mp3 --model savedmodels/mine --out embeddings.npz
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clmr_tf.command_line import parse_command
from clmr_tf.console import notes, results, run_command
from clmr_tf.errors import ClmrError, UsageError


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """Settings of the command."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Audio files of any format, rate and length, and folders of them."""
    model: Path = Path("savedmodels/demo")
    """Model folder, or the folder of a run."""
    out: Path = Path("embeddings.npz")
    """File to write, .npz or .parquet; docs/embedding.md says what is in it. A file that is there is replaced."""
    hop_seconds: float | None = None
    """Distance between windows. Default: the length of a window, so that they follow each other."""
    batch_size: int = 32
    """Windows in one call of the encoder."""

    def __post_init__(self) -> None:
        """Raises UsageError, one sentence, for values that cannot be."""
        if self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1; received {self.batch_size}.")


def main(arguments: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        ClmrError: If none of the files could be used.
    """
    config = parse_command(
        EmbedConfig, arguments, program="python -m clmr_tf.embed", description="Embeds files and folders of music."
    )
    if not config.paths:
        raise UsageError("No music was given; name files or folders, as in `python -m clmr_tf.embed song.mp3`.")
    # After the command line is known to be right: TensorFlow takes seconds to load.
    from clmr_tf.embedding_files import embed_files, find_files
    from clmr_tf.embedding_table import require_writable
    from clmr_tf.pretrained import load_encoder

    out = config.out.expanduser()
    require_writable(out)
    files = find_files(config.paths)
    encoder = load_encoder(config.model)
    columns = TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task("embedding", total=len(files))
        embedded, skipped = embed_files(
            encoder,
            files,
            out,
            hop_seconds=config.hop_seconds,
            batch_size=config.batch_size,
            on_file=lambda done, of: bar.update(task, completed=done, total=of),
        )
    for one in skipped:
        notes.print(f"warning: {one.path} is skipped: {one.reason}.", style="yellow", markup=False)
    if not embedded:
        raise ClmrError(f"None of the {len(files)} files could be used as audio; {out} holds no embeddings.")
    results.print(f"Embedded {len(embedded)} of {len(files)} files to {out}.", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
