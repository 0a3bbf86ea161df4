"""Packages of Debian: which there are, and files out of them."""

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import urllib.parse
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from clmr_tf.console import stderr
from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import put_in_place
from pipelines.preparation.downloads import UnpackingLimits, unpack_zip

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
    downloadable = {name: packages[there] for name, there in chosen.items() if there in packages}
    if finished.returncode or not downloadable:
        raise UsageError(_no_packages(finished.stderr, names))
    return downloadable


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


_HASHES = {"SHA512": hashlib.sha512, "SHA256": hashlib.sha256, "SHA1": hashlib.sha1, "MD5Sum": hashlib.md5}
# Music is compressed already, so that an archive of it cannot be much larger inside than outside.
_ZIP_LIMIT_FACTOR = 4
ZIP_SUFFIXES = (".pk3", ".zip", ".love")


def fetch_package(package: Package, cache: Path) -> Path:
    """Downloads a package unless its file is in the cache with the right size and checksum. Returns the file.

    Raises:
        ClmrError: If apt cannot get it; what was fetched before stays.
    """
    path = cache / package.file
    if _is_whole(path, package):
        return path
    stderr.print(f"Fetching {package.file}, {package.num_bytes / 1e6:.0f} MB", markup=False)
    # In a folder of its own: what bears its name in the cache is whole, and apt takes up a half file where it stopped.
    fetching = cache / "fetching"
    fetching.mkdir(parents=True, exist_ok=True)
    finished = run_program("apt-get", ["download", package.name], cwd=fetching)
    arrived = fetching / package.file
    if finished.returncode or not _is_whole(arrived, package):
        reason = (
            reason_of(finished.stderr) if finished.returncode else "what arrived is not what the package lists name"
        )
        if not finished.returncode:
            arrived.unlink(missing_ok=True)
        raise ClmrError(
            f"apt-get could not fetch {package.name} ({reason}); see to the network and start again, the rest stays."
        )
    put_in_place(arrived, path)
    return path


def take_files(deb: Path, wanted: Collection[str], cache: Path) -> Path:
    """Takes files out of a package, also out of the zip archives in it; nothing else of it is written.

    Args:
        deb: The package.
        wanted: Paths in it, "usr/share/games/x/music/1.ogg"; in an archive "usr/share/games/x/music.pk3/1.ogg".
        cache: Folder for a folder of this package, which is made once.

    Returns:
        That folder. A path that the package does not hold is missing in it.

    Raises:
        UsageError: If there is no dpkg-deb, or an archive holds what it must not.
        ClmrError: If the package cannot be read.
    """
    digest = hashlib.sha256("\n".join(sorted(wanted)).encode("utf-8")).hexdigest()[:8]
    folder = cache / f"{deb.stem}-{digest}"
    if folder.is_dir():
        return folder
    draft = cache / f".{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    archives = {archive for path in wanted if (archive := archive_of(path)) is not None}
    _copy_members(deb, {path for path in wanted if archive_of(path) is None} | archives, draft)
    for archive in sorted(archives):
        path = draft / archive
        if path.is_file():
            zipped = path.rename(path.with_name(f"{path.name}.packed"))
            unpack_zip(zipped, path, UnpackingLimits(num_bytes=_ZIP_LIMIT_FACTOR * zipped.stat().st_size + 2**20))
            zipped.unlink()
    put_in_place(draft, folder)
    return folder


def archive_of(path: str) -> str | None:
    """The zip archive that a path leads through, None if it leads through none."""
    parts = path.split("/")
    for number, part in enumerate(parts[:-1], start=1):
        if part.endswith(ZIP_SUFFIXES):
            return "/".join(parts[:number])
    return None


def _copy_members(deb: Path, wanted: Collection[str], folder: Path) -> None:
    # The paths that are written are our own, whatever the package calls its files.
    try:
        with (
            subprocess.Popen(
                ["dpkg-deb", "--fsys-tarfile", str(deb)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=program_environment(),
            ) as unpacker,
            tarfile.open(fileobj=unpacker.stdout, mode="r|") as members,
        ):
            for member in members:
                name = member.name.removeprefix("./")
                if name in wanted and member.isreg():
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as file:
                        shutil.copyfileobj(members.extractfile(member), file)
            # dpkg-deb fills up its last block, and would die of a closed pipe.
            while unpacker.stdout.read(2**16):
                pass
    except FileNotFoundError as error:
        if error.filename != "dpkg-deb":
            raise
        raise absent_program("dpkg-deb") from error
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(deb) from error
    if unpacker.returncode:
        raise _damaged(deb)


def _is_whole(path: Path, package: Package) -> bool:
    if not path.is_file() or path.stat().st_size != package.num_bytes:
        return False
    if package.hash_kind not in _HASHES:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, _HASHES[package.hash_kind]).hexdigest() == package.checksum.lower()


def _damaged(deb: Path) -> ClmrError:
    return ClmrError(f"{deb} cannot be unpacked; delete it and start again.")
