"""Every error that twotrack raises on purpose, as one tree.

TwotrackError
├── ConfigurationError       a setting is unknown or bad: refuse to start (exit 78)
├── RequestError             the daemon says no: carries the code of the control protocol
├── DaemonUnreachableError   nobody answers on the control socket (exit 69)
├── MediaError               bytes that are not what they claim to be
│   ├── OpusPacketError      a malformed Opus packet (RFC 6716 section 3.4)
│   └── OggError             a malformed Ogg page
├── CaptureError             a capture file that can't be read, or holds no call
├── DependencyError          a program or library that is missing on this machine
├── MergeError               two tracks did not become one file
├── StorageError             the recording did not reach storage
│   └── NameTakenError       other bytes are stored under this name
└── SpoolError               the spool's directory can't be used
"""


class TwotrackError(Exception):
    """Base of all: its text is one sentence that says what to do."""


class ConfigurationError(TwotrackError):
    """A setting is unknown, or its value is bad."""


class RequestError(TwotrackError):
    """A request on the control socket that is answered with an error.

    Args:
        code: One of `messages.ErrorCode`.
        message: One sentence that says what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class DaemonUnreachableError(TwotrackError):
    """No daemon answers on the control socket."""


class MediaError(TwotrackError):
    """Bytes that are not what they claim to be."""


class OpusPacketError(MediaError):
    """A malformed Opus packet."""


class OggError(MediaError):
    """A malformed Ogg page."""


class CaptureError(TwotrackError):
    """A capture file that can't be read, or that holds no call."""


class DependencyError(TwotrackError):
    """A program or a library that is missing on this machine."""


class MergeError(TwotrackError):
    """Two tracks did not become one file."""


class StorageError(TwotrackError):
    """The recording did not reach storage."""


class NameTakenError(StorageError):
    """Other bytes are already stored under this name."""


class SpoolError(TwotrackError):
    """The spool's directory can't be used."""
