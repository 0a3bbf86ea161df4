"""Loads an encoder from wherever a user has one."""

from pathlib import Path

from clmr_tf import model_folder
from clmr_tf.checkpoint import named_variables, restore_newest
from clmr_tf.encoder import Encoder, build_encoder
from clmr_tf.errors import UsageError
from clmr_tf.files import refuse_pattern
from clmr_tf.models.sample_cnn import SampleCNN
from clmr_tf.run_folder import BEST, CHECKPOINTS, CONFIG_FILE, read_config


def load_encoder(folder: str | Path, *, check: bool = False) -> Encoder:
    """Loads the encoder of a model folder, or of the newest checkpoint of a run folder.

    Args:
        folder: As `python -m clmr_tf.export` or `python -m clmr_tf.train` leaves it.
        check: Also run the golden numbers of a model folder.

    Raises:
        UsageError: If the folder holds neither.
        ClmrError: If the golden numbers are not met.
    """
    folder = Path(folder).expanduser()
    if (folder / model_folder.MANIFEST_FILE).is_file():
        if check:
            model_folder.check_golden(folder)
        model = model_folder.read_encoder(folder)
    elif (folder / CONFIG_FILE).is_file():
        model, _ = read_run_encoder(folder)
    else:
        raise UsageError(f"{folder} is neither an exported model nor the folder of a run.")
    return Encoder(model, model.clip_num_samples, model.sample_rate_hz)


def read_run_encoder(workdir: Path, *, best: bool = False) -> tuple[SampleCNN, int]:
    """The float32 encoder of a run's newest checkpoint, and the number of steps it was trained for.

    Of a run that keeps a running average of its weights, the average.

    Args:
        workdir: Folder of the run.
        best: Take the best checkpoint by the metric of the run instead of the newest.

    Raises:
        UsageError: If the run has no such checkpoint yet.
        ClmrError: If none of its checkpoints can be read.
    """
    refuse_pattern(workdir)
    config = read_config(workdir)
    encoder = build_encoder(width=config.width, sample_rate_hz=config.sample_rate_hz)
    weights, statistics = encoder.trainable_variables, encoder.non_trainable_variables
    averages = {"encoder": named_variables(statistics), "encoder_average": named_variables(weights)}
    groups = averages if config.ema_momentum else {"encoder": named_variables(encoder.variables)}
    step = restore_newest(workdir / (BEST if best else CHECKPOINTS), groups)
    if step is None:
        lack = "has kept no best checkpoint, which takes a validation" if best else "has no checkpoint yet"
        raise UsageError(f"The run in {workdir} {lack}; train it for longer.")
    return encoder, step
