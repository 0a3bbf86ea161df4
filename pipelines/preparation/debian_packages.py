"""Finds and downloads Debian packages, and extracts files from them."""

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

# A line of `apt-get download --print-uris`: 'ADDRESS' FILE SIZE KIND:CHECKSUM.
_ADDRESS_LINE = re.compile(
    r"'(?P<address>[^']+)' (?P<file>[^\s/]+\.deb) (?P<num_bytes>\d+)(?: (?P<kind>\w+):(?P<sum>\w+))?"
)
_VERSIONED_NAME = re.compile(r"(?P<before>.+-)(?P<version>\d+(?:\.\d+)+)(?P<after>-.+|)")


@dataclasses.dataclass(frozen=True)
class Package:
    """A package in apt's package lists.

    Attributes:
        name: Its name.
        file: File name of its .deb.
        num_bytes: Size of the .deb.
        checksum: Hex digest of the .deb; None if apt has none.
        hash_kind: The hash function in apt's spelling: "SHA256", "MD5Sum".
    """

    name: str
    file: str
    num_bytes: int
    checksum: str | None
    hash_kind: str | None

    @property
    def version(self) -> str:
        """Its version, without the epoch if the file name has none."""
        return urllib.parse.unquote(self.file.split("_")[1])


def find_packages(names: Sequence[str]) -> dict[str, Package]:
    """Looks packages up in the package lists of this machine.

    A package with a version in its name, such as wesnoth-1.16-music, has a different name in other releases: if there
    is no package of that name, the one with the newest version is used.

    Args:
        names: Names of the packages, in any release.

    Returns:
        The packages by requested name, in that order, without those that apt cannot download.

    Raises:
        UsageError: If there is no apt-cache or apt-get, or apt can download none of them.
    """
    known = run_program("apt-cache", ["pkgnames"])
    candidates = {name: _names_of_releases(name, known.stdout.split()) for name in names}
    offered = _offered([candidate for group in candidates.values() for candidate in group])
    name_here = {name: found[0] for name, group in candidates.items() if (found := [c for c in group if c in offered])}
    if not name_here:
        raise UsageError(_no_packages(known.stderr, names))
    finished = run_program("apt-get", ["download", "--print-uris", *name_here.values()])
    packages = _parsed(finished.stdout)
    downloadable = {name: packages[here] for name, here in name_here.items() if here in packages}
    if finished.returncode or not downloadable:
        raise UsageError(_no_packages(finished.stderr, names))
    return downloadable


def _parsed(uris: str) -> dict[str, Package]:
    """The packages in the output of `apt-get download --print-uris`, by name."""
    packages = {}
    for match in map(_ADDRESS_LINE.fullmatch, uris.splitlines()):
        if match:
            name = match["file"].split("_")[0]
            packages[name] = Package(name, match["file"], int(match["num_bytes"]), match["sum"], match["kind"])
    return packages


def version_in_name(name: str) -> str | None:
    """The version in a package's name: 1.16 in wesnoth-1.16-music; None if there is none."""
    match = _VERSIONED_NAME.fullmatch(name)
    return match["version"] if match else None


def _names_of_releases(name: str, known: Iterable[str]) -> list[str]:
    """Possible names of a package in this release, the best first: its own, then those with the newest version."""
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
    """Packages that can be downloaded; apt also lists packages that are only installed."""
    if not names:
        return set()
    rows = (line.split("|") for line in run_program("apt-cache", ["madison", *names]).stdout.splitlines())
    return {row[0].strip() for row in rows if row[-1].strip().endswith("Packages")}


def _no_packages(stderr: str, names: Sequence[str]) -> str:
    reason = f" ({reason_of(stderr)})" if stderr.strip() else ""
    return (
        f"apt-get can download none of {len(names)} packages, such as {names[0]}{reason}; add the main section of "
        "Debian 12 or 13 to its sources and run `apt-get update` as root."
    )


def run_program(program: str, arguments: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Runs a program of Debian and captures its output as text.

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
    """The environment of these programs, with messages in English, since they are parsed here."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def absent_program(program: str) -> UsageError:
    """The error for a missing program."""
    return UsageError(
        f"There is no {program} on this machine; the music is in Debian packages, so use Debian 12 or 13."
    )


def reason_of(stderr: str) -> str:
    """The first error message of apt, without its prefix and full stop."""
    lines = [line.removeprefix("E: ") for line in stderr.splitlines() if line.startswith("E: ")]
    return " ".join((lines or stderr.splitlines() or ["no message"])[0].split()).rstrip(".")


_HASHES = {"SHA512": hashlib.sha512, "SHA256": hashlib.sha256, "SHA1": hashlib.sha1, "MD5Sum": hashlib.md5}
# Music is already compressed, so an archive of music does not grow much when it is unpacked.
_ZIP_LIMIT_FACTOR = 4
ZIP_SUFFIXES = (".pk3", ".zip", ".love")


def fetch_package(package: Package, cache: Path) -> Path:
    """Downloads a package unless its file is in the cache with the right size and checksum. Returns the file.

    Args:
        package: The package, from the package lists.
        cache: Folder that keeps packages; created if it does not exist.

    Raises:
        ClmrError: If apt cannot download it; packages that were downloaded before are kept.
    """
    path = cache / package.file
    if _is_whole(path, package):
        return path
    stderr.print(f"Fetching {package.file}, {package.num_bytes / 1e6:.0f} MB", markup=False)
    # In a separate folder, so that every .deb in the cache is complete, and apt can resume an incomplete file.
    fetching = cache / "fetching"
    fetching.mkdir(parents=True, exist_ok=True)
    finished = run_program("apt-get", ["download", package.name], cwd=fetching)
    arrived = fetching / package.file
    if finished.returncode or not _is_whole(arrived, package):
        reason = (
            reason_of(finished.stderr) if finished.returncode else "the file differs from the one in the package lists"
        )
        if not finished.returncode:
            arrived.unlink(missing_ok=True)
        raise ClmrError(f"apt-get could not fetch {package.name} ({reason}); check the network and start again.")
    put_in_place(arrived, path)
    return path


def take_files(deb: Path, wanted: Collection[str], cache: Path) -> Path:
    """Extracts files from a package, and from zip archives in it.

    Args:
        deb: The package.
        wanted: Paths in it, "usr/share/games/x/music/1.ogg"; in an archive "usr/share/games/x/music.pk3/1.ogg"; with
            a slash at its end, everything in a folder that is not in an archive.
        cache: Folder in which a folder for these files is created once.

    Returns:
        That folder. Files that the package does not contain are missing there.

    Raises:
        UsageError: If there is no dpkg-deb, or an archive contains something forbidden.
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
    """The path of the zip archive that a file is in; None if it is in none."""
    parts = path.split("/")
    for number, part in enumerate(parts[:-1], start=1):
        if part.endswith(ZIP_SUFFIXES):
            return "/".join(parts[:number])
    return None


def _copy_members(deb: Path, wanted: Collection[str], folder: Path) -> None:
    # Only wanted paths are written, and none that leads upwards, so names in the package can do no harm.
    folders = tuple(path for path in wanted if path.endswith("/"))
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
                is_wanted = name in wanted or (name.startswith(folders) and ".." not in name.split("/"))
                if is_wanted and member.isreg():
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as file:
                        shutil.copyfileobj(members.extractfile(member), file)
            # Read to the end, since dpkg-deb pads its output and fails if the pipe is closed.
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
