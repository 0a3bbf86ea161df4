"""python -m benchmarks.cluster: what Ray costs, as one JSON object.

Prepares a corpus in shards with 1 and 2 workers, on Ray and in plain processes that take shards in turn, each worker
decoding one file at a time; both times include the start of the workers, but not that of Ray. Then it times shards that
do nothing, and kills one of two Ray nodes on this machine to see how long its shard takes to start again.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil

from clmr_tf.cluster import ClusterOptions, ShardTask, run_on_cluster
from clmr_tf.config.shards import Shard
from clmr_tf.console import run_command, stdout
from pipelines import demo_data
from pipelines.folder import FolderSettings, plan_corpus
from pipelines.preparation.prepare import Preparation, PrepareSettings, prepare_shard

NUM_EMPTY_SHARDS = 200


def prepared_seconds(preparation: Preparation, num_shards: int, num_workers: int) -> float:
    """How long plain processes take for all shards."""
    started = time.perf_counter()
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as processes:
        list(processes.map(functools.partial(prepare_shard, preparation), shards_of(num_shards)))
    return time.perf_counter() - started


def shards_of(num_shards: int) -> list[Shard]:
    """All shards of a corpus."""
    return [Shard(number, num_shards) for number in range(num_shards)]


def on_ray(open_worker: Callable, arguments: Sequence, num_workers: int = 1) -> float:
    """How long Ray takes for some shards, with so many workers on the two cores that it has."""
    options = ClusterOptions(cluster="auto", worker_cpus=2 // num_workers, worker_memory_gb=0.5)
    tasks = [ShardTask(str(argument), argument, 1) for argument in arguments]
    started = time.perf_counter()
    run_on_cluster(options, open_worker, tasks, doing="Measuring")
    return time.perf_counter() - started


@contextlib.contextmanager
def ray_with_two_cores() -> Iterator:
    """Starts Ray on this machine with places for two workers, and yields it as an object that can add nodes."""
    # Ray lowers the priority of its workers; the plain processes keep theirs.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield cluster
    finally:
        cluster.shutdown()


def seconds_until_repeated(cluster, folder: Path) -> float:  # noqa: ANN001 - a class of Ray, which is imported late
    """From the death of a node to the second start of the shard that it was doing."""
    node = cluster.add_node(num_cpus=2)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    killed_at = []

    def open_worker() -> Callable[[int], float | None]:
        def run(number: int) -> float | None:
            begun = folder / f"begun-{number}"
            if begun.exists():
                return time.time()
            begun.write_text(str(os.getpid()))
            while not (folder / "killed").exists():
                time.sleep(0.05)
            return None

        return run

    def kill_node() -> None:
        while not killed_at:
            time.sleep(0.1)
            own = {process.pid for process in raylet.children(recursive=True)}
            begun = [int(path.read_text() or 0) for path in folder.glob("begun-*")]
            if len(begun) == 2 and own & set(begun):
                for process in [raylet, *raylet.children(recursive=True)]:
                    process.send_signal(signal.SIGKILL)
                killed_at.append(time.time())
        (folder / "killed").touch()

    thread = threading.Thread(target=kill_node, daemon=True)
    thread.start()
    options = ClusterOptions(cluster="auto", worker_cpus=2, worker_memory_gb=0.5)
    tasks = [ShardTask(str(number), number, 1) for number in range(2)]
    repeated = run_on_cluster(options, open_worker, tasks, doing="Measuring")
    thread.join()
    return max(ended for ended in repeated if ended is not None) - killed_at[0]


def measure(num_files: int, num_shards: int) -> dict[str, object]:
    """Returns the rates, their ratio for each number of workers, and the times of shards and of a lost node."""
    result: dict[str, object] = {"num_files": num_files, "num_shards": num_shards}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        songs = sorted((Path(demo_data.__file__).parent / "audio").rglob("*.ogg"))
        (work / "music").mkdir()
        for number in range(num_files):
            shutil.copy(songs[number % len(songs)], work / "music" / f"{number:05d}.ogg")

        def planned(out: str) -> Preparation:
            settings = PrepareSettings(num_workers=1)
            return plan_corpus(work / "music", work / out, settings, FolderSettings())

        ratios = {}
        with ray_with_two_cores() as cluster:
            for num_workers in (1, 2):
                plain = prepared_seconds(planned(f"plain-{num_workers}"), num_shards, num_workers)
                opened = functools.partial(functools.partial, prepare_shard, planned(f"ray-{num_workers}"))
                ray_seconds = on_ray(opened, shards_of(num_shards), num_workers)
                result[f"files_per_second_of_{num_workers}_processes"] = num_files / plain
                result[f"files_per_second_of_{num_workers}_ray_workers"] = num_files / ray_seconds
                ratios[num_workers] = plain / ray_seconds
            few, many = (on_ray(lambda: abs, range(count)) for count in (1, 1 + NUM_EMPTY_SHARDS))
            result |= {
                "ray_over_processes": min(ratios.values()),
                "ray_over_processes_by_workers": ratios,
                "overhead_ms_per_shard": 1000 * (many - few) / NUM_EMPTY_SHARDS,
                "seconds_until_the_shard_of_a_dead_node_is_repeated": seconds_until_repeated(cluster, work),
            }
    return result


def main(arguments: Sequence[str]) -> None:
    """Prints the result of the benchmark; `arguments` exclude the program's name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--num-files", type=int, default=1600, help="excerpts of the demo corpus (default: 1600)")
    parser.add_argument("--num-shards", type=int, default=16, help="shards of the corpus (default: 16)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if not 1 <= options.num_shards <= options.num_files:
        parser.error("--num-shards must be at least 1 and at most --num-files")
    stdout.out(json.dumps(measure(options.num_files, options.num_shards), indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
