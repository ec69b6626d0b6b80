"""Where recordings go: one small protocol, one module a backend."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from twotrack.errors import ConfigurationError
from twotrack.storage.local import LocalStorage


class StorageType(StrEnum):
    """Kinds of storage."""

    LOCAL = "local"
    GCS = "gcs"
    S3 = "s3"
    AZURE = "azure"


class Storage(Protocol):
    """A place for whole, immutable objects under flat names."""

    def url(self, name: str) -> str:
        """Where an object of this name is found."""

    def put(self, name: str, content: Path | bytes) -> None:
        """Store an object, whole or not at all; the same bytes again are success.

        Raises:
            NameTakenError: Other bytes are stored under this name; nothing was changed.
            StorageError: It could not be stored.
        """

    def holds_other(self, name: str, content: Path | bytes) -> bool:
        """True if something else than these bytes is stored under this name."""

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is success."""


def open_storage(kind: StorageType, path: str) -> Storage:
    """The storage of this kind.

    Args:
        kind: Its type.
        path: A directory for `local`.

    Raises:
        ConfigurationError: This version can't store there.
        StorageError: The directory can't be used.
    """
    if kind not in _BACKENDS:
        raise ConfigurationError(
            f"AUDIO_STORAGE_TYPE={kind} is not supported by this version; set it to one of {', '.join(_BACKENDS)}"
        )
    return _BACKENDS[kind](Path(path))


_BACKENDS: Mapping[StorageType, type[LocalStorage]] = {StorageType.LOCAL: LocalStorage}
