"""What the package lists of this machine say: which Debian packages it can get, and under which names.

`apt-get download` knows the addresses, sizes and checksums from them.
"""

import dataclasses
import os
import re
import subprocess
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path

from clmr_tf.errors import UsageError

# What `apt-get download --print-uris` prints for a package: 'ADDRESS' FILE SIZE KIND:CHECKSUM.
_ADDRESS_LINE = re.compile(
    r"'(?P<address>[^']+)' (?P<file>[^\s/]+\.deb) (?P<num_bytes>\d+)(?: (?P<kind>\w+):(?P<sum>\w+))?"
)
_VERSIONED_NAME = re.compile(r"(?P<before>.+-)(?P<version>\d+(?:\.\d+)+)(?P<after>-.+|)")


@dataclasses.dataclass(frozen=True)
class Package:
    """A package as apt knows it.

    Attributes:
        name: Its name.
        file: Name of its .deb.
        num_bytes: Size of that.
        checksum: In hex digits, of the kind `hash_kind`; None where apt names none.
        hash_kind: As apt spells it: "SHA256", "MD5Sum".
    """

    name: str
    file: str
    num_bytes: int
    checksum: str | None
    hash_kind: str | None

    @property
    def version(self) -> str:
        """Its version, without the epoch where the file name leaves it out."""
        return urllib.parse.unquote(self.file.split("_")[1])


def find_packages(names: Sequence[str]) -> dict[str, Package]:
    """Looks packages up in the package lists of this machine.

    A package whose name holds a version, such as wesnoth-1.16-music, has another name in another release: where there
    is none of that name, the one with the newest version in its place is taken.

    Args:
        names: Of the packages, in any release.

    Returns:
        The packages by the names that were asked for, in that order; those which apt cannot get are left out.

    Raises:
        UsageError: If there is no apt-cache or apt-get, or it can get none of them.
    """
    known = run_program("apt-cache", ["pkgnames"])
    candidates = {name: _names_of_releases(name, known.stdout.split()) for name in names}
    offered = _offered([candidate for group in candidates.values() for candidate in group])
    chosen = {name: found[0] for name, group in candidates.items() if (found := [c for c in group if c in offered])}
    if not chosen:
        raise UsageError(_no_packages(known.stderr, names))
    finished = run_program("apt-get", ["download", "--print-uris", *chosen.values()])
    packages: dict[str, Package] = {}
    for match in map(_ADDRESS_LINE.fullmatch, finished.stdout.splitlines()):
        if match:
            name = match["file"].split("_")[0]
            packages[name] = Package(name, match["file"], int(match["num_bytes"]), match["sum"], match["kind"])
    found = {name: packages[there] for name, there in chosen.items() if there in packages}
    if finished.returncode or not found:
        raise UsageError(_no_packages(finished.stderr, names))
    return found


def version_in_name(name: str) -> str | None:
    """The version that is a part of a package's name: 1.16 in wesnoth-1.16-music; None if there is none."""
    match = _VERSIONED_NAME.fullmatch(name)
    return match["version"] if match else None


def _names_of_releases(name: str, known: Iterable[str]) -> list[str]:
    """Names that a package may have in this release, the best first: its own, then those of newer versions."""
    wanted = _VERSIONED_NAME.fullmatch(name)
    if not wanted:
        return [name] if name in known else []
    others = {}
    for other in known:
        match = _VERSIONED_NAME.fullmatch(other)
        if match and (match["before"], match["after"]) == (wanted["before"], wanted["after"]):
            others[other] = [int(number) for number in match["version"].split(".")]
    return sorted(others, key=lambda other: (other == name, others[other]), reverse=True)


def _offered(names: Sequence[str]) -> set[str]:
    """Those that an archive has; apt also knows packages that are merely installed."""
    if not names:
        return set()
    rows = (line.split("|") for line in run_program("apt-cache", ["madison", *names]).stdout.splitlines())
    return {row[0].strip() for row in rows if row[-1].strip().endswith("Packages")}


def _no_packages(stderr: str, names: Sequence[str]) -> str:
    reason = f" ({reason_of(stderr)})" if stderr.strip() else ""
    return (
        f"apt-get can get none of {len(names)} packages, such as {names[0]}{reason}; have the main section of Debian "
        "12 or 13 in its sources and run `apt-get update` as root."
    )


def run_program(program: str, arguments: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Runs a program of Debian, keeping what it prints as text.

    Raises:
        UsageError: If this machine does not have it.
    """
    try:
        return subprocess.run(
            [program, *arguments], cwd=cwd, env=program_environment(), capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise absent_program(program) from error


def program_environment() -> dict[str, str]:
    """The environment of these programs: their messages are read here, so in English."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def absent_program(program: str) -> UsageError:
    """The error of a machine that does not have one of these programs."""
    return UsageError(
        f"There is no {program} on this machine; this music comes in Debian packages, so use Debian 12 or 13."
    )


def reason_of(stderr: str) -> str:
    """The first complaint of apt, without its prefix and full stop."""
    lines = [line.removeprefix("E: ") for line in stderr.splitlines() if line.startswith("E: ")]
    return " ".join((lines or stderr.splitlines() or ["no message"])[0].split()).rstrip(".")
