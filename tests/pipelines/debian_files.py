"""A small Debian for tests: packages with made music, and a program that plays apt-get and apt-cache."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.sounds import noise, write_sound

needs_dpkg_deb = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")

# Plays apt-get: knows the packages of FOLDER, writes down what it is asked for, copies what shall be fetched.
# Plays apt-cache, too; it also knows the packages that the file "installed" names, which no archive has.
_APT = """#!{python} -SEs
import hashlib, pathlib, shutil, sys
folder = pathlib.Path({folder!r})
with (folder / "log").open("a") as log:
    print(*sys.argv[1:], file=log)
names = [argument for argument in sys.argv[2:] if not argument.startswith("-")]
debs = {{path.name.split("_")[0]: path for path in folder.glob("*.deb")}}
installed = (folder / "installed").read_text().split() if (folder / "installed").exists() else []
if sys.argv[1] == "pkgnames":
    sys.exit(print(*debs, *installed, sep="\\n"))
if sys.argv[1] == "madison":
    lines = (f"{{name:>10}} | 1:2.0-1 | http://debian.invalid main/amd64 Packages" for name in names if name in debs)
    sys.exit(print(*lines, sep="\\n"))
for name in names:
    if name not in debs:
        sys.exit(f"W: of no matter\\nE: Unable to locate package {{name}}")
    content = debs[name].read_bytes()
    if "--print-uris" in sys.argv:
        digest = hashlib.sha256(content).hexdigest()
        print(f"'http://debian.invalid/{{debs[name].name}}' {{debs[name].name}} {{len(content)}} SHA256:{{digest}}")
    elif (folder / "unreachable").exists():
        sys.exit(f"E: Failed to fetch http://debian.invalid/{{debs[name].name}}  Could not connect.")
    elif (folder / "garbled").exists():
        pathlib.Path(debs[name].name).write_bytes(content[:-1] + b"?")
    else:
        shutil.copy(debs[name], debs[name].name)
"""


def build_package(folder: Path, name: str, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    """Builds a .deb of version 1:2.0-1 that holds the files, and links to somewhere."""
    root = folder / f"{name}.root"
    for path, target in (links or {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: Nobody <a@b.c>\nDescription: test\n"
    (root / "DEBIAN/control").write_text(control)
    deb = folder / f"{name}_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "--root-owner-group", "--build", root, deb], check=True, capture_output=True)
    shutil.rmtree(root)
    return deb


def install_apt_get(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts programs called apt-get and apt-cache first in PATH, which know the packages in a folder.

    They add a line to the file "log" there for every call; a file "unreachable" there makes apt-get fail to fetch, a
    file "garbled" makes what it fetches wrong, and a file "installed" names packages that no archive has.
    """
    programs = folder / "programs"
    programs.mkdir(parents=True)
    for name in ("apt-get", "apt-cache"):
        (programs / name).write_text(_APT.format(python=sys.executable, folder=str(folder)))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def song(folder: Path, seed: int, suffix: str = ".flac") -> bytes:
    """The bytes of three seconds of noise."""
    path = folder / f"song-{seed}{suffix}"
    write_sound(path, noise(3.0, 22050, seed=seed), 22050, {".flac": "FLAC", ".ogg": "OGG"}[suffix])
    content = path.read_bytes()
    path.unlink()
    return content


def zipped(files: dict[str, bytes], folder: Path) -> bytes:
    """The bytes of a zip archive."""
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    content = path.read_bytes()
    path.unlink()
    return content
