"""twotrack: records both sides of a call as two tracks of one file."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from twotrack.service import AudioCacheService as AudioCacheService
    from twotrack.service import AudioChunk as AudioChunk
    from twotrack.service import AudioFormat as AudioFormat
    from twotrack.service import AudioType as AudioType
    from twotrack.storage import StorageType as StorageType

__all__ = ["AudioCacheService", "AudioChunk", "AudioFormat", "AudioType", "StorageType", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the library's names when they are first used: `twotrack status` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'twotrack' has no attribute {name!r}")
    from twotrack import service, storage

    return getattr(storage if name == "StorageType" else service, name)
