"""Times the expensive augmentations of the released code: julius' filters, and sox's `pitch` and `reverb`."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import numpy as np
import soundfile

# The versions from the time of the released code that can still be installed.
_JULIUS_PACKAGES = ("torch==2.13.0", "julius==0.2.7", "numpy<3")
_PYTHON = Path("bin", "python")
# How many different sox settings are timed; their mean is used for all.
_NUM_SETTINGS = 8

# Runs with the Python that has julius. Filters each clip on its own, as the released code does, on one core.
_JULIUS_PROGRAM = """
import json, sys, time
import julius, numpy, torch
torch.set_num_threads(1)
clips = torch.from_numpy(numpy.load(sys.argv[1]))
filters = json.loads(sys.argv[2])
def run():
    for clip, name, cutoff in filters:
        getattr(julius, name + "_filter")(clips[clip], cutoff)
run()
start = time.process_time()
run()
print(time.process_time() - start)
"""


def install_julius(folder: Path) -> None:
    """Creates a virtual environment with julius and PyTorch in `folder`, unless it exists."""
    if not (folder / _PYTHON).exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / _PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *_JULIUS_PACKAGES], check=True, stdout=sys.stderr)


def install_sox() -> None:
    """Installs sox with apt-get if it is missing and apt-get may be used."""
    if shutil.which("sox") is None and shutil.which("apt-get") is not None:
        subprocess.run(["apt-get", "install", "-y", "-qq", "sox"], check=False, stdout=sys.stderr)


def julius_cpu_seconds(
    clips: np.ndarray, draws: dict[str, np.ndarray], sample_rate_hz: int, folder: Path
) -> float | None:
    """Returns the CPU time of filtering the drawn clips, or None if julius is not installed in `folder`."""
    if not (folder / _PYTHON).exists():
        return None
    filters = [
        (
            int(row),
            "lowpass" if draws["is_lowpass"][row] else "highpass",
            float(draws["cutoff_hz"][row]) / sample_rate_hz,
        )
        for row in np.flatnonzero(draws["applied"])
    ]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "clips.npy"
        np.save(path, clips)
        command = [folder / _PYTHON, "-c", _JULIUS_PROGRAM, path, json.dumps(filters)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def sox_cpu_seconds(
    clips: np.ndarray, settings: list[tuple[float, ...]], effect: str, sample_rate_hz: int
) -> float | None:
    """Returns the CPU time of one sox effect on as many clips as there are settings, or None if sox is missing.

    sox processes all clips in one file with eight evenly spread settings, and without an effect. The difference is the
    cost of the effect without starting a process for every clip and without reading and decoding.
    """
    if shutil.which("sox") is None:
        return None
    ordered = sorted(settings)
    timed = [ordered[place] for place in np.linspace(0, len(ordered) - 1, _NUM_SETTINGS).round().astype(int)]
    back = ["rate", str(sample_rate_hz)] if effect == "pitch" else []
    with tempfile.TemporaryDirectory() as temporary:
        path = f"{temporary}/clips.wav"
        soundfile.write(path, clips.ravel(), sample_rate_hz, subtype="FLOAT")
        without = _sox_seconds(path)
        cost = [_sox_seconds(path, effect, *map(str, values), *back) - without for values in timed]
    return float(np.mean(cost)) / len(clips) * len(settings)


def _sox_seconds(path: str, *effects: str) -> float:
    def used() -> float:
        usage = getrusage(RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run(["sox", "-V1", path, "-n", *effects], check=True)
    return used() - before
