"""python -m clmr_tf.tag: prints the tags of recordings, and plots them over time.

python -m clmr_tf.tag song.mp3 --model savedmodels/mine --plot taggram.png
python -m clmr_tf.tag song.mp3 --model savedmodels/mine --taught music
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from clmr_tf.config.command_line import INCLUDED_MODEL, Runtime, parse_command, require_model
from clmr_tf.console import minutes_and_seconds, printable, run_command, stdout
from clmr_tf.errors import UsageError


@dataclasses.dataclass(frozen=True)
class TagConfig:
    """Settings of the command."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Audio files of any format, sample rate and length, or folders of audio files."""
    model: Path = INCLUDED_MODEL
    """Model folder with a head, or folder of a run that was trained with labels. Default: the included
    model."""
    runtime: Runtime = "auto"
    """What runs the model. "auto" takes the fastest of those that are installed, have their file in the model folder,
    and compute in float32; "litert-int8" is not exact, and faster on processors with VNNI instructions."""
    taught: Path | None = None
    """Table of embeddings of this model whose tags, taught by `python -m clmr_tf.teach`, are added to those of the
    model; or the file TABLE.tags.json."""
    top: int = 10
    """Number of tags to show, most likely first."""
    plot: Path | None = None
    """PNG file for a plot of the tags over time; for a single song."""
    hop_seconds: float | None = None
    """Time between the starts of two windows. Default: the length of a window, so that they do not overlap."""

    def __post_init__(self) -> None:
        """Raises UsageError for invalid values."""
        if self.top < 1:
            raise UsageError(f"--top must be at least 1; received {self.top}.")
        if self.plot and self.plot.suffix != ".png":
            raise UsageError(f"--plot must be a file that ends in .png; received {self.plot}.")


def main(arguments: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        ClmrError: If none of the files could be used.
    """
    config = parse_command(
        TagConfig, arguments, program="python -m clmr_tf.tag", description="Tags songs, and shows tags over time."
    )
    if not config.paths:
        raise UsageError("No music was given; give files or folders, as in `python -m clmr_tf.tag song.mp3`.")
    require_model(config.model)
    from clmr_tf.audio.isolation import IsolatedDecoder

    with IsolatedDecoder() as decoder:
        # Imported while the decoder starts, because both take time.
        from clmr_tf.audio.decoding import flaws_of
        from clmr_tf.audio.listing import find_audio
        from clmr_tf.files import require_writable, write_atomically
        from clmr_tf.inference.embeddings import stream_embeddings, usable
        from clmr_tf.inference.encoder import Embedding, load_encoder

        plot = config.plot and config.plot.expanduser()
        if plot:
            from clmr_tf.inference.taggram import draw_taggram

            require_writable(plot, "--plot")
        files, skipped = find_audio(config.paths)
        if plot and len(files) > 1:
            raise UsageError(f"--plot needs a single song; received {len(files)} files.")
        encoder = load_encoder(config.model, config.runtime)
        if config.taught:
            encoder.add_taught_tags(config.taught.expanduser())
        encoder.require_tags()
        embeddings = stream_embeddings(encoder, files, decoder, hop_seconds=config.hop_seconds)
        for one in usable(itertools.chain(skipped, embeddings)):
            tagging = encoder.tagging_of(Embedding(one.times_seconds, one.vectors, one.is_padded))
            details = [minutes_and_seconds(one.duration_seconds), *["shorter than a window"][: one.is_padded]]
            details += flaws_of(is_silent=one.is_silent, lost_seconds=one.lost_seconds)
            stdout.print(f"{printable(str(one.path))} ({', '.join(details)})", markup=False)
            for name, probability in tagging.top(config.top):
                stdout.print(f"  {probability:.3f}  {name}", markup=False)
            if plot:
                window_seconds = encoder.clip_num_samples / encoder.sample_rate_hz
                write_atomically(plot, draw_taggram(tagging, window_seconds, config.top, printable(one.path.stem)))
                stdout.print(f"Tags over time: {printable(str(plot))}", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
