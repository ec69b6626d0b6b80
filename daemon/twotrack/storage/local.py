"""Recordings in a directory: temporary file, fsync, create-only link, fsync of the directory."""

import filecmp
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twotrack.errors import NameTakenError, StorageError

FILE_MODE = 0o640


class LocalStorage:
    """A directory of recordings; made if it is missing.

    Raises:
        StorageError: The directory can't be made or written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.expanduser().absolute()
        with _explained(f"the storage directory {directory} can't be made"):
            self._directory.mkdir(parents=True, exist_ok=True)
        if not os.access(self._directory, os.W_OK | os.X_OK):
            raise StorageError(f"the storage directory {directory} can't be written: give this user the right to it")

    def url(self, name: str) -> str:
        """See `Storage.url`."""
        return (self._directory / name).as_uri()

    def put(self, name: str, content: Path | bytes) -> None:
        """Store an object; see `Storage.put`."""
        target = self._directory / name
        temporary = self._directory / f".{secrets.token_hex(8)}.tmp"
        try:
            with _explained(f"{name} can't be stored in {self._directory}"):
                _write(temporary, content)
                self._link(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _link(self, temporary: Path, target: Path) -> None:
        try:
            os.link(temporary, target)
        except FileExistsError:
            if not filecmp.cmp(temporary, target, shallow=False):
                raise NameTakenError(f"{target} exists and holds another recording") from None
        _sync_directory(self._directory)

    def holds_other(self, name: str, content: Path | bytes) -> bool:
        """See `Storage.holds_other`."""
        with _explained(f"{name} can't be read in {self._directory}"):
            target = self._directory / name
            if not target.exists():
                return False
            if isinstance(content, bytes):
                return target.read_bytes() != content
            return not filecmp.cmp(content, target, shallow=False)

    def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        with _explained(f"{name} can't be deleted in {self._directory}"):
            (self._directory / name).unlink(missing_ok=True)
            _sync_directory(self._directory)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the system's errors into a sentence."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {(error.strerror or str(error)).lower()}") from error


def _write(path: Path, content: Path | bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    with open(descriptor, "wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, file, 1024 * 1024)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
