"""python -m benchmarks.encoders: how much work each encoder is, how fast it is, and how much it learns in some minutes.

Prints one JSON object. `rows` has a row for each encoder and width: GFLOP of one view at inference (convolutions and
matrix products, counted in the graph) and the number of weights. With --speed also pairs per second of a training step
in float32 and in bfloat16, from a prepared corpus and with the whole augmentation chain; and windows per second in
every runtime that an export is made for, in batches. Every training and every runtime has its own process, one after
the other. The encoders are not trained, which does not change their speed. Missing figures are null, with the reason in
`absent`.

    python -m pipelines.debian_games --set medium
    python -m pipelines.pseudo_tags --corpus corpora/debian_games-medium
    python -m pipelines.accompaniments --download
    python -m benchmarks.encoders --minutes 30 --seeds 2

trains every encoder for the same time, by CLMR and with labels, and scores it, the same encoder without training, mel
statistics and musicnn's features. The same command continues what was interrupted; --table prints what is finished.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import encoder_comparison
from benchmarks.embed import export_everything
from benchmarks.flop import forward_flop
from benchmarks.runtime_embedding import SAVED_MODEL
from benchmarks.train_step import cpu_has_bfloat16
from benchmarks.worker import Worker, WorkerFailedError
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import ClmrError
from clmr_tf.export.runtimes import FORMATS
from clmr_tf.hardware import num_usable_cores
from clmr_tf.models.encoders import ENCODERS, build_encoder

_DEFAULTS: dict[str, Any] = {"encoders": list(ENCODERS), "corpus": "demo", "batch_size": 16}
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# TensorFlow reads the SavedModel.
RUNTIMES = {"tensorflow": SAVED_MODEL, "litert_float32": "fp32", "litert_int8": "int8", "onnx": "onnx"}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Counts, and measures if that is asked for, every encoder at every width."""
    absent: dict[str, str] = {}
    versions: dict[str, str] = {}
    rows = []
    for name in options.encoders:
        for width in options.widths:
            encoder = build_encoder(name, width=width)
            row = {
                "encoder": name,
                "width": width,
                "gflop_per_view": forward_flop(encoder, (encoder.clip_num_samples,)) / 1e9,
                "num_weights": encoder.count_params(),
            }
            if options.speed:
                row["training_pairs_per_second"] = _training_rates(options, name, width, absent, versions)
                row["windows_per_second"] = _window_rates(options, name, width, absent, versions)
            rows.append(row)
    settings = ("batch_size", "window_batch_size", "repeats") if options.speed else ()
    return {
        **{setting: getattr(options, setting) for setting in settings},
        "num_cpus": num_usable_cores(),
        "rows": rows,
        "absent": absent,
        "versions": versions,
    }


def _training_rates(
    options: argparse.Namespace, name: str, width: float, absent: dict[str, str], versions: dict[str, str]
) -> dict[str, float | None]:
    rates: dict[str, float | None] = {}
    for precision, policy in PRECISIONS.items():
        if precision == "bfloat16" and not cpu_has_bfloat16():
            absent[precision] = "the CPU has no bfloat16 instructions"
            rates[precision] = None
            continue
        arguments = ("--corpus", options.corpus, "--corpora", options.corpora.absolute(), "--precision", policy)
        arguments += ("--encoder", name, "--width", width, "--batch-size", options.batch_size)
        with contextlib.closing(Worker(sys.executable, "benchmarks.tensorflow_step", arguments)) as worker:
            seconds = [worker.request("steps", count=3)["seconds"] for _ in range(options.repeats)]
            versions["training"] = worker.about["version"]
        rates[precision] = options.batch_size / statistics.median(map(statistics.median, seconds))
    return rates


def _window_rates(
    options: argparse.Namespace, name: str, width: float, absent: dict[str, str], versions: dict[str, str]
) -> dict[str, float | None]:
    rates: dict[str, float | None] = dict.fromkeys(RUNTIMES)
    with tempfile.TemporaryDirectory() as folder:
        kinds = [kind for kind in RUNTIMES.values() if kind in FORMATS]
        lacking = export_everything(Path(folder) / "model", width, name, kinds)
        for runtime, kind in RUNTIMES.items():
            if kind in lacking:
                absent[runtime] = lacking[kind]
                continue
            arguments = ("--runtime", kind, "--model", Path(folder) / "model", "--music", folder)
            arguments += ("--batch-size", options.window_batch_size, "--num-threads", num_usable_cores())
            with contextlib.closing(Worker(sys.executable, "benchmarks.runtime_embedding", arguments)) as worker:
                answer = worker.request("windows", num_clips=options.window_batch_size, repetitions=options.repeats)
                versions[runtime] = worker.about["version"]
            rates[runtime] = options.window_batch_size / statistics.median(answer["seconds"])
    return rates


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--speed", action="store_true", help="also measure training and inference")
    parser.add_argument(
        "--encoders",
        nargs="+",
        choices=list(ENCODERS),
        help=f"which ones (default: all; with --minutes {' '.join(encoder_comparison.DEFAULT_ENCODERS)})",
    )
    parser.add_argument("--widths", nargs="+", type=float, default=[1.0, 0.5], help="widths (default: 1 0.5)")
    parser.add_argument(
        "--corpus",
        help="corpus, as in clmr_tf.train (default: demo; with --minutes, a prepared one, "
        f"{encoder_comparison.DEFAULT_CORPUS})",
    )
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), help="folder of prepared corpora")
    parser.add_argument("--batch-size", type=int, help="pairs per training step (default: 16, with --minutes 64)")
    parser.add_argument("--window-batch-size", type=int, default=32, help="windows per batch (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of three steps, and batches (default: 5)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    encoder_comparison.add_options(parser)
    options = parser.parse_args(arguments)
    compares = options.minutes is not None or options.table
    defaults = encoder_comparison.DEFAULTS if compares else _DEFAULTS
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if compares and options.speed:
        parser.error("--speed and --minutes are two benchmarks; give one of them")
    counts = (options.window_batch_size, options.repeats)
    if options.batch_size < 2 or min(counts) < 1 or not all(0 < width <= 8 for width in options.widths):
        parser.error("--batch-size must be at least 2, other numbers at least 1, and --widths above 0 and at most 8")
    try:
        result = encoder_comparison.compare(options) if compares else measure(options)
    except WorkerFailedError as error:
        raise ClmrError(f"A part of the benchmark failed: {error}.") from error
    stdout.out(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
