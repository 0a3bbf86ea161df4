"""A disk that fills up while a run saves."""

import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from clmr_tf.config.train import TrainConfig
from clmr_tf.errors import ClmrError
from clmr_tf.train.run import train
from tests.clmr_tf.train.training_runs import TINY_TRAIN, words_of
from tests.synthetic import synthetic_corpus

pytestmark = pytest.mark.usefixtures("tiny_network")

ROOT = Path(__file__).parents[3]

# Mounts a small tmpfs in a mount namespace that ends with the shell. A checkpoint
# of this model takes 13 MB, so the first fits and the second does not.
SCRIPT = """
disk=$1 result=$2; shift 2
mount -t tmpfs -o size=22m tmpfs "$disk" || exit 99
"$@" --workdir "$disk/run" 2> "$result/errors"
echo $? > "$result/exit_code"
ls "$disk/run/checkpoints" > "$result/listing"
mount -o remount,size=99m "$disk"
"$@" --workdir "$disk/run" > "$result/output" 2>&1 || exit 98
cp "$disk/run/metrics.jsonl" "$disk/run/run.json" "$result"
"""


@pytest.mark.soak
@pytest.mark.parametrize(
    ("largest_file_bytes", "words"),
    [
        (2**20, "step 4 could not be written .*; the last good checkpoint is step-000000002"),
        # Not even a row of metrics.jsonl fits.
        (64, "The log of the run could not be written to .*run because .*; the last good checkpoint is step-000000002"),
    ],
)
def test_file_size_limit_keeps_the_previous_checkpoint(tmp_path, largest_file_bytes, words):
    """Stands for a full disk where mounting is not permitted."""
    corpus = synthetic_corpus(tmp_path / "corpus", num_songs={"train": 4}, num_samples=60_000, tag_names=("a",))
    settings = {"corpus": str(corpus.folder), "workdir": tmp_path / "run", "width": 0.0625, "steps": 6, "batch_size": 4}
    config = TrainConfig(
        **settings, checkpoint_every=2, log_every=1, num_audio_examples=0, augmentation="none", validate_every=0
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit_after_the_first_checkpoint(progress):
        if progress.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, before[1]))

    try:
        with pytest.raises(ClmrError, match=words):
            train(config, limit_after_the_first_checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000002"]
    assert train(config).first_step == 2
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == [f'{{"step": {n}' for n in range(1, 7)]


@pytest.mark.soak
def test_full_disk_keeps_the_last_checkpoint_and_the_next_start_resumes(tmp_path):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    corpus = synthetic_corpus(tmp_path / "corpus", num_songs={"train": 4}, num_samples=60_000, tag_names=("a",))
    for name in ("disk", "result"):
        (tmp_path / name).mkdir()
    settings = {"corpus": corpus.folder, "width": 0.0625, "steps": 6, "batch_size": 4, "augmentation": "none"}
    settings |= {"checkpoint_every": 2, "log_every": 1, "num_audio_examples": 0, "validate_every": 0}
    command = [*TINY_TRAIN, *words_of(settings)]
    script = ["sh", "-c", SCRIPT, "sh", tmp_path / "disk", tmp_path / "result", *command]
    finished = subprocess.run(["unshare", "-rm", *map(str, script)], cwd=ROOT, check=False, capture_output=True)
    if finished.returncode == 99:
        pytest.skip("mounting a small disk is not permitted here")
    assert finished.returncode == 0, finished.stderr
    read = {path.name: path.read_text() for path in (tmp_path / "result").iterdir()}
    assert read["exit_code"] == "1\n"
    errors = [line for line in read["errors"].splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "Traceback" not in read["errors"]
    assert "step 4 could not be written" in errors[0]
    assert "because the disk is full; the last good checkpoint is step-000000002" in errors[0]
    assert read["listing"].split() == ["step-000000002"]
    assert "Trained to step 6" in read["output"]
    assert [line.split(",")[0] for line in read["metrics.jsonl"].splitlines()] == [
        f'{{"step": {n}' for n in range(1, 7)
    ]
    assert '"first_step": 2' in read["run.json"]
