"""Runs a LiteRT or ONNX file in a process without TensorFlow, as users will.

    python -m clmr_tf.export.runtime_process FILE AUDIO OUTPUTS

AUDIO is an .npz file with `audio`, such as golden.npz of a model folder. OUTPUTS is the .npz file to write, with an
array for each output of the model: the rows of all clips in one batch, then the row of the first clip alone; and with
`processor_seconds`, the processor time of one clip.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

PROCESSOR_SECONDS = "processor_seconds"
_NUM_TIMED = 10

Run = Callable[[np.ndarray], dict[str, np.ndarray]]
"""From audio float32 [n, clip_num_samples] to the outputs by name, each with n rows."""


def load(file: Path, num_threads: int | None = None) -> Run:
    """Loads a .tflite or .onnx file.

    Args:
        file: Written by `python -m clmr_tf.export`.
        num_threads: Default: chosen by the runtime.

    Raises:
        ImportError: If its runtime is not installed.
    """
    return _load_onnx(file, num_threads) if file.suffix == ".onnx" else _load_tflite(file, num_threads)


def _load_tflite(file: Path, num_threads: int | None) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(model_path=str(file), num_threads=num_threads).get_signature_runner("serving_default")
    return lambda audio: signature(audio=audio)


def _load_onnx(file: Path, num_threads: int | None) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    # Threads that wait for work would take time from the decoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options)
    names = [output.name for output in session.get_outputs()]
    return lambda audio: dict(zip(names, session.run(names, {"audio": audio}), strict=True))


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    file, inputs, outputs = map(Path, arguments)
    with np.load(inputs) as golden:
        audio = golden["audio"]
    run = load(file)
    together, first = run(audio), run(audio[:1])
    begin = time.process_time()
    for _ in range(_NUM_TIMED):
        run(audio[:1])
    seconds = (time.process_time() - begin) / _NUM_TIMED
    arrays = {name: np.concatenate([rows, first[name]]) for name, rows in together.items()}
    np.savez(outputs, **arrays, **{PROCESSOR_SECONDS: seconds})


if __name__ == "__main__":
    main(sys.argv[1:])
