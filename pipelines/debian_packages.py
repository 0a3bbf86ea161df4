"""Fetches Debian packages and takes files out of them; nothing is installed and nobody needs to be root.

`apt-get download` knows the addresses, sizes and checksums from the package lists of this machine.
"""

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import urllib.parse
from collections.abc import Collection, Sequence
from pathlib import Path

from clmr_tf.console import notes
from clmr_tf.errors import ClmrError, UsageError
from pipelines.unpacking import UnpackingLimits, unpack_zip

# What `apt-get download --print-uris` prints for a package: 'ADDRESS' FILE SIZE KIND:CHECKSUM.
_ADDRESS_LINE = re.compile(
    r"'(?P<address>[^']+)' (?P<file>[^\s/]+\.deb) (?P<num_bytes>\d+)(?: (?P<kind>\w+):(?P<sum>\w+))?"
)
_HASHES = {"SHA512": hashlib.sha512, "SHA256": hashlib.sha256, "SHA1": hashlib.sha1, "MD5Sum": hashlib.md5}
# Music is compressed already, so that an archive of it cannot be much larger inside than outside.
_ZIP_LIMIT_FACTOR = 4
ZIP_SUFFIXES = (".pk3", ".zip", ".love")


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


def find_packages(names: Sequence[str]) -> list[Package]:
    """Asks apt for packages, in the order of the names.

    Raises:
        UsageError: If there is no apt-get, or it does not know one of them.
    """
    finished = _run("apt-get", ["download", "--print-uris", *names])
    if finished.returncode:
        raise UsageError(_unknown_package(finished.stderr, names))
    found: dict[str, Package] = {}
    for match in map(_ADDRESS_LINE.fullmatch, finished.stdout.splitlines()):
        if match:
            name = match["file"].split("_")[0]
            found[name] = Package(name, match["file"], int(match["num_bytes"]), match["sum"], match["kind"])
    if missing := [name for name in names if name not in found]:
        raise UsageError(_unknown_package("", missing))
    return [found[name] for name in names]


def fetch_package(package: Package, cache: Path) -> Path:
    """Downloads a package unless its file is in the cache with the right size and checksum. Returns the file.

    Raises:
        ClmrError: If apt cannot get it; what was fetched before stays.
    """
    path = cache / package.file
    if _is_whole(path, package):
        return path
    notes.print(f"Fetching {package.file}, {package.num_bytes / 1e6:.0f} MB", markup=False)
    # In a folder of its own: what bears its name in the cache is whole, and apt takes up a half file where it stopped.
    fetching = cache / "fetching"
    fetching.mkdir(parents=True, exist_ok=True)
    finished = _run("apt-get", ["download", package.name], cwd=fetching)
    arrived = fetching / package.file
    if finished.returncode or not _is_whole(arrived, package):
        reason = _reason(finished.stderr) if finished.returncode else "what arrived is not what the package lists name"
        if not finished.returncode:
            arrived.unlink(missing_ok=True)
        raise ClmrError(
            f"apt-get could not fetch {package.name} ({reason}); see to the network and start again, the rest stays."
        )
    arrived.replace(path)
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
    draft.rename(folder)
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
                env=_environment(),
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
        raise _absent("dpkg-deb") from error
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


def _run(program: str, arguments: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(
            [program, *arguments], cwd=cwd, env=_environment(), capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise _absent(program) from error


def _environment() -> dict[str, str]:
    # Their messages are read here.
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _absent(program: str) -> UsageError:
    return UsageError(f"There is no {program} on this machine; this music comes in Debian packages, so use Debian 12.")


def _damaged(deb: Path) -> ClmrError:
    return ClmrError(f"{deb} cannot be unpacked; delete it and start again.")


def _unknown_package(stderr: str, names: Sequence[str]) -> str:
    named = re.search(r"(?:locate package|for package|Package) '?([a-z0-9][a-z0-9.+-]+)", stderr)
    name = named[1] if named else names[0]
    reason = "" if named or not stderr.strip() else f" ({_reason(stderr)})"
    return (
        f"apt-get knows no package {name}{reason}; have the main section of Debian 12 in its sources and run "
        f"`apt-get update` as root, or leave it out with --leave-out {name}."
    )


def _reason(stderr: str) -> str:
    lines = [line.removeprefix("E: ") for line in stderr.splitlines() if line.startswith("E: ")]
    return " ".join((lines or stderr.splitlines() or ["no message"])[0].split()).rstrip(".")
