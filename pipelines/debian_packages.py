"""Fetches Debian packages and takes files out of them; nothing is installed and nobody needs to be root."""

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Collection
from pathlib import Path

from clmr_tf.console import notes
from clmr_tf.errors import ClmrError
from clmr_tf.files import put_in_place
from pipelines.debian_package_lists import Package, absent_program, program_environment, reason_of, run_program
from pipelines.unpacking import UnpackingLimits, unpack_zip

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
    notes.print(f"Fetching {package.file}, {package.num_bytes / 1e6:.0f} MB", markup=False)
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
