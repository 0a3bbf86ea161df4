"""python -m benchmarks.train_step: how fast a training step is, compared with the machine's peak and with PyTorch.

Prints one JSON object. All ratios compare figures of this run: each kind of step has its own process, and they take
turns. A step reads its batch from a prepared corpus, makes the views, runs forward and backward, and updates. The
PyTorch step has the original's layers, a batch of noise and no augmentation. Missing figures are null, with the reason
in `absent`.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pytorch_environment import NOT_REQUESTED, python_with_pytorch
from benchmarks.worker import ROOT, Worker, WorkerFailedError
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import ClmrError
from clmr_tf.hardware import num_usable_cores

# A pair has two views. Each takes a forward pass and a backward pass for inputs and for weights, each as much work.
FORWARDS_PER_PAIR = 3 * 2
# Small matrices do not reach the peak of every CPU.
MATMUL_SIZES, QUICK_MATMUL_SIZES = (2048, 3072, 4096), (512,)


def cpu_has_bfloat16() -> bool:
    """Returns whether the CPU has bfloat16 instructions; without them bfloat16 is many times slower than float32."""
    with contextlib.suppress(OSError):
        return any(flag in Path("/proc/cpuinfo").read_text(encoding="utf-8") for flag in ("avx512_bf16", "amx_bf16"))
    return False


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Starts the available workers, lets them take turns, and collects the figures."""
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        workers = dict(_workers(options, stack, absent))
        float32 = workers["float32"]
        sizes = QUICK_MATMUL_SIZES if options.quick else MATMUL_SIZES

        def matmul() -> float:
            return float32.request("matmul", sizes=sizes, repetitions=5)["flop_per_second"]

        peaks, rounds = [matmul()], {name: [] for name in workers}
        waits: list[float] = []
        for _ in range(options.repeats):
            for name, worker in workers.items():
                answer = worker.request("steps", count=1 if options.quick else 3)
                rounds[name].append(statistics.median(answer["seconds"]))
                if name == "float32":
                    waits.append(sum(answer["input_wait_seconds"]) / sum(answer["seconds"]))
        peaks.append(matmul())
        save_seconds = statistics.median(float32.request("save", repetitions=3)["seconds"])
        memory = {name: worker.request("memory")["peak_megabytes"] for name, worker in workers.items()}
        about = {name: worker.about for name, worker in workers.items()}

    step_seconds = {name: statistics.median(seconds) for name, seconds in rounds.items()}
    flop_per_pair = FORWARDS_PER_PAIR * about["float32"]["forward_flop_per_view"]
    rate = {name: options.batch_size * flop_per_pair / seconds for name, seconds in step_seconds.items()}

    def ratio(name: str, base: str) -> float | None:
        return rate[name] / rate[base] if name in rate and base in rate else None

    checkpoint_every = about["float32"]["checkpoint_every"]
    return {
        "batch_size": options.batch_size,
        "width": options.width,
        "num_cpus": num_usable_cores(),
        "gflop_per_pair": flop_per_pair / 1e9,
        "step_seconds": step_seconds,
        "step_seconds_of_rounds": rounds,
        "gflop_per_second": {name: value / 1e9 for name, value in rate.items()},
        "matmul_gflop_per_second": {"before": peaks[0] / 1e9, "after": peaks[1] / 1e9},
        "fraction_of_matmul_peak": rate["float32"] / max(peaks),
        "bf16_over_float32": ratio("bf16", "float32"),
        "ratio_to_pytorch": ratio("float32", "pytorch"),
        "ratio_to_pytorch_bf16": ratio("bf16", "pytorch"),
        "input_wait_fraction": statistics.median(waits),
        "peak_megabytes": memory,
        "loss_peak_megabytes": _loss_peak_megabytes(),
        "checkpoint_save_seconds": save_seconds,
        "checkpoint_every": checkpoint_every,
        "checkpoint_fraction": save_seconds / (checkpoint_every * step_seconds["float32"]),
        "jit_over_float32": ratio("jit", "float32"),
        "jit_compile_seconds": about["jit"]["first_step_seconds"] - step_seconds["jit"] if "jit" in about else None,
        "absent": absent,
        "versions": {name: answer["version"] for name, answer in about.items()},
    }


def _workers(
    options: argparse.Namespace, stack: contextlib.ExitStack, absent: dict[str, str]
) -> Iterator[tuple[str, Worker]]:
    """Starts a worker for each available kind of step; adds the reason for each missing one to `absent`."""

    def started(python: Path | str, module: str, *arguments: object) -> Worker:
        size = ("--batch-size", options.batch_size, "--width", options.width)
        return stack.enter_context(contextlib.closing(Worker(python, module, [*size, *arguments])))

    def tensorflow(precision: str, *arguments: str) -> Worker:
        corpus = ("--corpus", options.corpus, "--corpora", options.corpora.absolute())
        return started(sys.executable, "benchmarks.tensorflow_step", *corpus, "--precision", precision, *arguments)

    yield "float32", tensorflow("float32")
    if cpu_has_bfloat16():
        yield "bf16", tensorflow("mixed_bfloat16")
    else:
        absent["bf16"] = "the CPU has no bfloat16 instructions"
    if options.jit:
        yield "jit", tensorflow("float32", "--jit")
    else:
        absent["jit"] = NOT_REQUESTED
    python = options.pytorch_python
    if options.pytorch:
        python = python_with_pytorch(Path(stack.enter_context(tempfile.TemporaryDirectory())), absent)
    if python is None:
        absent.setdefault("pytorch", NOT_REQUESTED)
        return
    try:
        worker = started(python, "benchmarks.pytorch_step", "--num-threads", num_usable_cores())
    except WorkerFailedError as error:
        absent["pytorch"] = str(error)
        return
    yield "pytorch", worker


def _loss_peak_megabytes() -> float:
    command = [sys.executable, "-m", "benchmarks.loss_memory"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)["loss_peak_megabytes"]


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__)
    parser.add_argument("--corpus", default="demo", help="corpus, as in clmr_tf.train (default: demo)")
    parser.add_argument("--corpora", type=Path, default=Path("corpora"), help="folder of prepared corpora")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs per step (default: 16)")
    parser.add_argument("--width", type=float, default=1.0, help="width of the encoder (default: 1.0)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of three steps of each kind (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="rounds of one step and small matrices, for a test run only"
    )
    parser.add_argument("--jit", action="store_true", help="also time the step compiled with XLA")
    pytorch = parser.add_mutually_exclusive_group()
    pytorch.add_argument("--pytorch", action="store_true", help="install PyTorch for this run and time it (large)")
    pytorch.add_argument("--pytorch-python", type=Path, help="time PyTorch with this Python, which needs PyTorch")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.batch_size < 2 or options.repeats < 1 or not 0 < options.width <= 8:
        parser.error("--batch-size must be at least 2, --repeats at least 1, and --width above 0 and at most 8")
    try:
        result = measure(options)
    except WorkerFailedError as error:
        raise ClmrError(f"A part of the benchmark failed: {error}.") from error
    stdout.out(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
