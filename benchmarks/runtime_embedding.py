"""Embeds with an exported model in one of its runtimes; `benchmarks.embed` starts it and sends it commands."""

import argparse
import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import reserve_standard_output, seconds_of, serve
from clmr_tf.audio.decoding import load_audio
from clmr_tf.audio.isolation import IsolatedDecoder
from clmr_tf.export.runtime_formats import FORMATS
from clmr_tf.export.runtime_process import load
from clmr_tf.inference.embeddings import stream_embeddings, usable
from clmr_tf.inference.encoder import RUNTIMES, load_encoder

CLIP_NUM_SAMPLES = 59049
SAVED_MODEL = "saved_model"


def windows_command(run: Callable[[np.ndarray], object]) -> Callable[[int, int], dict[str, Any]]:
    """Returns a command that gives the wall-clock seconds of each call with `num_clips` windows."""

    def windows(num_clips: int, repetitions: int) -> dict[str, Any]:
        audio = np.random.default_rng(0).uniform(-0.5, 0.5, (num_clips, CLIP_NUM_SAMPLES)).astype(np.float32)
        run(audio)
        return {"seconds": seconds_of(lambda: run(audio), repetitions)}

    return windows


def package_commands(
    runtime: str, model: Path, music: Path, num_threads: int, batch_size: int
) -> dict[str, Callable[..., dict[str, Any]]]:
    """Returns commands that do what `python -m clmr_tf.embed` does with the files in a folder, in a runtime."""
    if runtime == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    encoder, files = load_encoder(model, runtime), sorted(music.glob("*.*"))

    def embed() -> dict[str, Any]:
        begin, cpu_begin = time.perf_counter(), sum(os.times()[:4])
        with IsolatedDecoder() as decoder:
            embedded = list(usable(stream_embeddings(encoder, files, decoder, batch_size=batch_size)))
        # This includes the decoder's process, which has ended.
        seconds, cpu_seconds = time.perf_counter() - begin, sum(os.times()[:4]) - cpu_begin
        num_windows = sum(len(one.vectors) for one in embedded)
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "num_windows": num_windows}

    def decode() -> dict[str, Any]:
        begin = time.perf_counter()
        for file in files:
            load_audio(file, encoder.sample_rate_hz)
        return {"seconds": time.perf_counter() - begin}

    encoder.encode_clips(np.zeros((batch_size, encoder.clip_num_samples), np.float32))
    return {
        "embed": embed,
        "decode": decode,
        "windows": windows_command(lambda audio: encoder.encode_clips(audio, batch_size)),
    }


def runner(runtime: str, model: Path, num_threads: int) -> Callable[[np.ndarray], object]:
    """Loads the model for a runtime."""
    if runtime != SAVED_MODEL:
        return load(model / FORMATS[runtime].file, num_threads)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    # The loaded model must stay alive, or its variables are deleted.
    loaded = tf.saved_model.load(str(model / SAVED_MODEL))
    signature = loaded.signatures["serving_default"]
    return lambda audio, _keep=loaded: signature(audio=tf.constant(audio))["embedding"].numpy()


def main() -> None:
    """Serves the commands of `benchmarks.embed`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime_embedding", description=__doc__)
    parser.add_argument("--runtime", choices=(*RUNTIMES, SAVED_MODEL, *FORMATS), required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--music", type=Path, required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    options = parser.parse_args()
    reserve_standard_output()
    if options.runtime in RUNTIMES:
        commands = package_commands(
            options.runtime, options.model, options.music, options.num_threads, options.batch_size
        )
    else:
        commands = {"windows": windows_command(runner(options.runtime, options.model, options.num_threads))}
    kind = RUNTIMES.get(options.runtime, options.runtime)
    package = FORMATS[kind].runtime if kind in FORMATS else "tensorflow"
    serve(commands, about={"version": f"{package} {metadata.version(package)}"})


if __name__ == "__main__":
    main()
