"""What the Makefile tells a user to do next."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clmr_tf.audio_files import load_audio

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_what_to_do_after_make_train_can_be_done_as_it_stands_there():
    # What would be run, the echoes of the next commands at its end.
    planned = subprocess.run(["make", "--dry-run", "train"], cwd=ROOT, capture_output=True, text=True, check=True)
    (recording,) = re.findall(r"\.embed\('([^']+)'\)", planned.stdout)
    (model,) = re.findall(r"load_encoder\('([^']+)'\)", planned.stdout)
    assert f"clmr_tf.export --model runs/demo-run --out {model} --overwrite\n" in planned.stdout
    # As long as a clip at least.
    assert len(load_audio(ROOT / recording, 22_050)) >= 59_049
