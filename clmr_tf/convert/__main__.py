"""python -m clmr_tf.convert: converts checkpoints of the released PyTorch code to model folders and back."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from clmr_tf.config.command_line import parse_command
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Settings of the conversion."""

    from_pytorch: Path | None = None
    """Checkpoint of the released code (.pt, .ckpt, .safetensors, or one inside a .zip) to convert to a model folder."""
    to_pytorch: Path | None = None
    """Model folder to convert to a checkpoint, a plain state dict."""
    out: Path | None = None
    """Model folder or checkpoint to write. A checkpoint that ends in .safetensors is written in that format, any other
    for torch.load. An existing checkpoint is replaced; an existing model only if it was converted from the same
    checkpoint."""
    overwrite: bool = False
    """With --from-pytorch: also replace a model of a run or of another checkpoint."""
    head: Path | None = None
    """With --from-pytorch: checkpoint of the head, if it was saved separately (finetuner_checkpoint_200.zip)."""
    tags: str | None = None
    """With --from-pytorch: names of the outputs of the head: `magnatagatune`, `msd`, or a file with one name per line.
    Default: those of MagnaTagATune for a head of 50."""
    golden: Path | None = None
    """With --from-pytorch: .npz file with `audio` [n, samples] and the outputs of the original code for it (`h`, `z` or
    `logits`) to compare with."""
    licence: str | None = None
    """With --from-pytorch: licence of the weights, for the manifest. Default: unspecified."""


def convert(config: ConvertConfig) -> tuple[Path, dict[str, float]]:
    """Converts in either direction.

    Returns:
        The path written, and the relative error of each output, see `clmr_tf.convert.translation`.
    """
    if (config.from_pytorch is None) == (config.to_pytorch is None):
        raise UsageError("Give either --from-pytorch CHECKPOINT or --to-pytorch MODEL-FOLDER.")
    if config.out is None:
        raise UsageError("Give --out: the model folder or the checkpoint to write.")
    out = config.out.expanduser().absolute()
    from clmr_tf.convert import translation

    if config.to_pytorch is not None:
        for option in ("head", "tags", "golden", "licence", "overwrite"):
            if getattr(config, option) not in (None, False):
                raise UsageError(f"--{option} has no effect with --to-pytorch; leave it out.")
        return out, translation.to_pytorch(config.to_pytorch.expanduser(), out)
    errors = translation.from_pytorch(
        config.from_pytorch.expanduser(),
        out,
        head_checkpoint=config.head and config.head.expanduser(),
        tags=config.tags,
        golden=config.golden and config.golden.expanduser(),
        licence=config.licence or "unspecified",
        overwrite=config.overwrite,
    )
    return out, errors


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        ConvertConfig,
        arguments,
        program="python -m clmr_tf.convert",
        description="Converts checkpoints of the released PyTorch code to model folders, and back.",
    )
    out, errors = convert(config)
    if out.is_relative_to(Path.cwd()):
        out = out.relative_to(Path.cwd())
    measured = ", ".join(f"{name} within {error:.0e}" for name, error in errors.items())
    stdout.print(f"Converted to {out}; equal to the original network: {measured}.", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
