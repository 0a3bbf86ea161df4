"""What a worker does with one file for the direct reader: prove that it can read it. Imports TensorFlow."""

from pipelines.direct_check import measure
from pipelines.transcoding import MeasuredAudio, TranscodingTask, require_use


def validate(task: TranscodingTask) -> MeasuredAudio:
    """Checks that the direct reader delivers what `transcode` would have written, and writes nothing.

    Raises:
        UnreadableAudioError: As `transcode`, and where the two readers disagree.
        UsageError: If tensorflow-io cannot be loaded.
    """
    measured = measure(task.path, task.sample_rate_hz)
    require_use(measured.num_samples, measured.peak, task)
    return MeasuredAudio(measured.num_samples, measured.digest, measured.source_rate_hz, measured.source_num_channels)
