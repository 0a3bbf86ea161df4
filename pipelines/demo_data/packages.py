"""Source tracks out of Debian packages: fetched once, unpacked once, both in a cache folder."""

import os
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from clmr_tf.errors import ClmrError, UsageError
from clmr_tf.files import put_in_place

ARCHIVE_SEPARATOR = "!/"


class PackageCache:
    """A folder of Debian packages and what was unpacked from them.

    A package that is not there yet is fetched with `apt-get download`; a .deb file of the same name and
    version that was put there by hand serves as well. Needs apt-get and dpkg, but no root.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, package: str, version: str, source_path: str) -> bytes:
        """Reads one file of a package.

        Args:
            package: Name of the Debian package.
            version: Its version, as dpkg writes it.
            source_path: Path inside the package; "archive!/member" reads a member of a zip archive.

        Raises:
            UsageError: If apt-get or dpkg is missing, or apt-get knows no such version.
            ClmrError: If the package is damaged or has no such file.
        """
        file, _, member = source_path.partition(ARCHIVE_SEPARATOR)
        path = self._unpacked(package, version) / file
        try:
            if not member:
                return path.read_bytes()
            with zipfile.ZipFile(path) as archive:
                return archive.read(member)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, KeyError, zipfile.BadZipFile) as error:
            raise ClmrError(
                f"Package {package} {version} has no file {source_path}; correct the path in selection.csv."
            ) from error

    def _unpacked(self, package: str, version: str) -> Path:
        target = self._folder / f"{package}_{version}"
        if not target.is_dir():
            archive = self._archive(package, version)
            with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
                unpacked = Path(temporary) / "unpacked"
                message = _run(["dpkg", "-x", str(archive.resolve()), str(unpacked)], self._folder)
                if message is not None:
                    raise ClmrError(f"{archive} cannot be unpacked ({message}); delete it and start again.")
                put_in_place(unpacked, target)
        return target

    def _archive(self, package: str, version: str) -> Path:
        # apt-get writes the colon of an epoch as %3a in file names.
        pattern = f"{package}_{version.replace(':', '%3a')}_*.deb"
        for archive in self._folder.glob(pattern):
            return archive
        # In a folder of its own first: a download that is killed must not look like a package.
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            message = _run(["apt-get", "download", f"{package}={version}"], Path(temporary))
            fetched = next(Path(temporary).glob(pattern), None)
            if message is not None or fetched is None:
                raise UsageError(
                    f"apt-get cannot fetch {package} {version} ({message or 'no such file arrived'}); "
                    f"run apt-get update, or put {pattern} into {self._folder}."
                )
            archive = self._folder / fetched.name
            put_in_place(fetched, archive)
        return archive


def _run(command: Sequence[str], folder: Path) -> str | None:
    """Runs a command in `folder`; the last line of its complaint where it fails, else None."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UsageError(
            f"{command[0]} is not on this machine; the demo corpus is rebuilt on Debian or a relative of it."
        ) from error
    if done.returncode == 0:
        return None
    complaint = done.stderr.strip().splitlines()
    return complaint[-1] if complaint else f"exit code {done.returncode}"
