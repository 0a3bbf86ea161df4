"""CPU time of preparing files of each format, compared with libsndfile, which cannot read all of them completely.

    python -m benchmarks.decode

prints one JSON object. `real_time_per_core` is the seconds of audio that one core prepares per second
(`pipelines.preparation.transcoding`): decode, mix to mono, resample to 22,050 Hz, write 16-bit PCM and its hash.
`ratio_to_libsndfile` is the time for this divided by that for the same work with libsndfile as the decoder, measured
alternately in one run; the ratio at the top level is for all formats together. The music is three minutes of the demo
corpus in 44.1 kHz stereo.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from clmr_tf.audio.decoding import decoder_versions
from clmr_tf.console import run_command, stdout
from pipelines.preparation.transcoding import TranscodingTask, to_pcm16, transcode

SOURCE_RATE_HZ, SAMPLE_RATE_HZ = 44_100, 22_050
DEMO_AUDIO = Path(__file__).parents[1] / "pipelines" / "demo_data" / "audio"
FORMATS = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "ogg_vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "mp3": {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.5},
    "mp3_vbr": {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.5},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}


def music(seconds: float) -> np.ndarray:
    """Returns stereo with excerpts of a different song in each channel, float32 [samples, 2]."""
    excerpts = [
        soundfile.read(path, dtype="float32", always_2d=True)[0] for path in sorted(DEMO_AUDIO.rglob("*.ogg"))[:40]
    ]
    mono = np.concatenate([excerpt.mean(axis=1) for excerpt in excerpts])
    num_samples = round(seconds * SOURCE_RATE_HZ)
    return np.stack([np.resize(mono, num_samples), np.resize(np.roll(mono, len(mono) // 2), num_samples)], axis=1)


def write(path: Path, samples: np.ndarray, options: dict[str, object]) -> None:
    """Writes a file in one of FORMATS."""
    rate_hz = 48_000 if options.get("subtype") == "OPUS" else SOURCE_RATE_HZ
    with soundfile.SoundFile(path, "w", rate_hz, 2, **options) as file:
        # libsndfile 1.2.2 overflows its stack when it encodes a minute of Vorbis in one call.
        for start in range(0, len(samples), 1 << 15):
            file.write(samples[start : start + (1 << 15)])


def write_aac(path: Path, samples: np.ndarray) -> None:
    """Writes an M4A file, which libsndfile cannot read."""
    with av.open(path, "w", format="ipod") as output:
        stream = output.add_stream("aac", rate=SOURCE_RATE_HZ, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), "fltp", "stereo")
        frame.sample_rate = SOURCE_RATE_HZ
        pieces = av.AudioResampler("fltp", "stereo", SOURCE_RATE_HZ, frame_size=1024)
        for piece in [*pieces.resample(frame), *pieces.resample(None), None]:
            output.mux(stream.encode(piece))


def transcode_with_libsndfile(path: Path, part: Path) -> None:
    """Does the work of `transcode` in the same blocks with libsndfile as the decoder."""
    digest, peak = hashlib.sha256(), 0.0
    with soundfile.SoundFile(path) as file, part.open("wb") as output:
        # soundfile seeks after every block of a seekable file, which corrupts MP3.
        file.seekable = lambda: False
        resampler = soxr.ResampleStream(file.samplerate, SAMPLE_RATE_HZ, 1, "float32", "VHQ")
        buffer = np.empty((1 << 17, file.channels), np.float32)
        is_over = False
        while not is_over:
            received = file.buffer_read_into(buffer.data.cast("B"), "float32")
            is_over = received == 0
            mono = (buffer[:received, 0] + buffer[:received, 1]) * np.float32(0.5)
            samples = resampler.resample_chunk(mono, last=is_over)
            peak = max(peak, float(np.abs(samples).max(initial=0.0)))
            pcm = to_pcm16(samples).tobytes()
            output.write(pcm)
            digest.update(pcm)


def cpu_seconds_in_turn(works: Sequence[Callable[[], object]], repetitions: int) -> list[float]:
    """Runs the tasks alternately and returns the lowest CPU time of each."""
    least = [float("inf")] * len(works)
    for _ in range(repetitions):
        for index, work in enumerate(works):
            begin = time.process_time()
            work()
            least[index] = min(least[index], time.process_time() - begin)
    return least


def measure(seconds: float, repetitions: int) -> dict[str, object]:
    """Writes a file of each format and prepares it in both ways."""
    by_format: dict[str, dict[str, float]] = {}
    sums = np.zeros(2)
    with tempfile.TemporaryDirectory() as folder:
        part, samples = Path(folder, "part"), music(seconds)
        for name, options in {**FORMATS, "aac": None}.items():
            path = Path(folder, name)
            if options is None:
                write_aac(path, samples)
            else:
                write(path, samples, options)
            task = TranscodingTask(path, part, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
            works = [lambda task=task: transcode(task)]
            if options is not None:
                works.append(lambda path=path: transcode_with_libsndfile(path, part))
            taken = cpu_seconds_in_turn(works, repetitions)
            audio_seconds = part.stat().st_size / 2 / SAMPLE_RATE_HZ
            by_format[name] = {"real_time_per_core": round(audio_seconds / taken[0], 1)}
            if options is not None:
                by_format[name]["ratio_to_libsndfile"] = round(taken[0] / taken[1], 3)
                sums += taken
    return {
        "benchmark": "decode",
        "ratio_to_libsndfile": round(sums[0] / sums[1], 3),
        "formats": by_format,
        "seconds_of_audio": seconds,
        "repetitions": repetitions,
        "versions": {**decoder_versions(), "libsndfile": soundfile.__libsndfile_version__},
    }


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="length of each file in seconds (default: 180)")
    parser.add_argument(
        "--repetitions", type=int, default=5, help="repetitions of each measurement; the lowest counts (default: 5)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    stdout.print_json(json.dumps(measure(options.seconds, options.repetitions)))


if __name__ == "__main__":
    sys.exit(run_command(main))
