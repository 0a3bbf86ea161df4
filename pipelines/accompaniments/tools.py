"""The tools that songs are made with, and their sources: MMA, soundfonts and a synthesizer."""

import dataclasses
import re
import shutil
import sys
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from clmr_tf.errors import UsageError
from clmr_tf.files import put_in_place
from pipelines.preparation.debian_packages import fetch_package, find_packages, take_files
from pipelines.preparation.downloads import UnpackingLimits, unpack_zip
from pipelines.preparation.wheels import fetch_wheel

MMA = "mma"
MMA_LICENCE = "GPL-2+"
# Not listed in requirements.txt: it requires PyAudio, which needs PortAudio and is only for playback.
SYNTHESIZER, SYNTHESIZER_VERSION = "tinysoundfont", "0.3.7"
_MMA_PROGRAM, _MMA_LIBRARY = "usr/bin/mma", "usr/share/mma"
# Unpacked, the synthesizer has about 1 MB.
_WHEEL_NUM_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Soundfont:
    """A General MIDI soundfont in a Debian package.

    Attributes:
        package: Name of the package.
        path: Its file in the package.
        licence: Its licence.
    """

    package: str
    path: str
    licence: str


SOUNDFONTS = {
    "TimGM6mb": Soundfont("timgm6mb-soundfont", "usr/share/sounds/sf2/TimGM6mb.sf2", "GPL-2"),
    "sf_GMbank": Soundfont("csound-soundfont", "usr/share/sounds/sf2/sf_GMbank.sf2", "public domain"),
    "FluidR3Mono_GM": Soundfont(
        "fluidr3mono-gm-soundfont", "usr/share/fluidr3mono-gm-soundfont/FluidR3Mono_GM.sf3", "MIT"
    ),
}


@dataclasses.dataclass(frozen=True)
class Tools:
    """The paths of the tools on this machine.

    Attributes:
        mma: The program.
        mma_home: The folder of its modules and its library.
        synthesizer: The folder from which Python imports it.
        soundfonts: The files by name.
        versions: Version of each package by its name.
    """

    mma: Path
    mma_home: Path
    synthesizer: Path
    soundfonts: dict[str, Path]
    versions: dict[str, str]


def fetch_tools(data: Path, soundfonts: Iterable[str] = SOUNDFONTS) -> None:
    """Downloads the packages of `find_tools` into a folder, unless it contains them.

    Args:
        data: The folder; created if it does not exist.
        soundfonts: Names of soundfonts.

    Raises:
        UsageError: If there is no apt-get, or it does not know a package.
        ClmrError: If apt-get or pip cannot download something.
    """
    names = _packages(soundfonts)
    missing = [name for name in names if not list(data.glob(_deb(name)))]
    if missing:
        found = find_packages(missing)
        if unknown := [name for name in missing if name not in found]:
            raise UsageError(
                f"apt-get does not know the package {unknown[0]}; add the main section of Debian 12 or 13 to its "
                "sources and run `apt-get update` as root."
            )
        for package in found.values():
            fetch_package(package, data)
    if not list(data.glob(_wheel())):
        advice = "where there is no wheel for this Python, pip needs a C++ compiler and Python's headers to build it"
        fetch_wheel(SYNTHESIZER, SYNTHESIZER_VERSION, "0.2 MB", data, advice)


def find_tools(data: Path, soundfonts: Iterable[str] = SOUNDFONTS) -> Tools:
    """Finds the packages in a folder and unpacks them there, once.

    Args:
        data: The folder.
        soundfonts: Names of soundfonts.

    Raises:
        UsageError: If a package is missing, is there in two versions, or has no such file.
        ClmrError: If a package cannot be unpacked.
    """
    # Paths that hold in the folders where MMA runs.
    data = data.absolute()
    files = {name: _one(data, _deb(name)) for name in _packages(soundfonts)}
    wheel = _one(data, _wheel())
    mma = take_files(files[MMA], [_MMA_PROGRAM, f"{_MMA_LIBRARY}/"], data)
    # MMA warns if this folder is missing, and errors quote its messages.
    (mma / _MMA_LIBRARY / "plugins").mkdir(parents=True, exist_ok=True)
    places = {
        name: take_files(files[font.package], [font.path], data) / font.path
        for name, font in SOUNDFONTS.items()
        if name in set(soundfonts)
    }
    for deb, path in [(files[MMA], mma / _MMA_PROGRAM), *((files[SOUNDFONTS[n].package], places[n]) for n in places)]:
        if not path.is_file():
            raise UsageError(f"{deb} does not contain {path.name}; use the package of Debian 12 or 13.")
    return Tools(
        mma=mma / _MMA_PROGRAM,
        mma_home=mma / _MMA_LIBRARY,
        synthesizer=_unpacked(wheel),
        soundfonts=places,
        versions={
            **{name: urllib.parse.unquote(file.name.split("_")[1]) for name, file in files.items()},
            SYNTHESIZER: SYNTHESIZER_VERSION,
        },
    )


def _packages(soundfonts: Iterable[str]) -> list[str]:
    return [MMA, *(SOUNDFONTS[name].package for name in soundfonts)]


def _deb(package: str) -> str:
    return f"{package}_*.deb"


def _wheel() -> str:
    # The wheel is built for this version of Python.
    return f"{SYNTHESIZER}-{SYNTHESIZER_VERSION}-cp{sys.version_info.major}{sys.version_info.minor}-*.whl"


def _one(data: Path, pattern: str) -> Path:
    found = sorted(data.glob(pattern))
    if not found:
        raise UsageError(
            f"{data / pattern} is missing; `python -m pipelines.accompaniments --help` says where it comes from, and "
            "--download fetches it."
        )
    if len(found) > 1:
        raise UsageError(f"{data} has {found[0].name} and {found[1].name}; keep one of them.")
    return found[0]


def _unpacked(wheel: Path) -> Path:
    folder = wheel.with_name(re.sub(r"\.whl$", "", wheel.name))
    if not folder.is_dir():
        draft = wheel.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        unpack_zip(wheel, draft, UnpackingLimits(num_bytes=_WHEEL_NUM_BYTES))
        put_in_place(draft, folder)
    return folder
