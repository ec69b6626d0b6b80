"""twotrack: records both sides of a call as two tracks of one file."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from twotrack.chunks import AudioChunk as AudioChunk
    from twotrack.chunks import AudioFormat as AudioFormat
    from twotrack.chunks import AudioType as AudioType
    from twotrack.service import AudioCacheService as AudioCacheService
    from twotrack.storage import StorageType as StorageType

__all__ = ["AudioCacheService", "AudioChunk", "AudioFormat", "AudioType", "StorageType", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the library's names when they are first used: `twotrack status` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'twotrack' has no attribute {name!r}")
    from twotrack import chunks, service, storage

    room = next(room for room in (service, storage, chunks) if name in vars(room))
    return getattr(room, name)
