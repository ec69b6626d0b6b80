"""Which codec a payload type carries, and what counts as audio.

Source: RFC 3551 table 4 (static types), RFC 7587 (Opus), RFC 4733 (telephone-event), RFC 3389 (CN).
"""

from collections.abc import Mapping
from enum import StrEnum

from twotrack.opus import SAMPLE_RATE

DYNAMIC_PAYLOAD_TYPES = range(96, 128)
NARROWBAND_RATE = 8_000


class Codec(StrEnum):
    """What an audio packet is coded in."""

    OPUS = "opus"
    PCMU = "pcmu"
    PCMA = "pcma"

    @property
    def clock_rate(self) -> int:
        """Of the RTP timestamp, in Hz; Opus counts at 48 kHz whatever it codes (RFC 7587 4.1)."""
        return SAMPLE_RATE if self is Codec.OPUS else NARROWBAND_RATE


DEFAULT_PAYLOAD_TYPES: Mapping[int, Codec] = {
    0: Codec.PCMU,
    8: Codec.PCMA,
    **dict.fromkeys(DYNAMIC_PAYLOAD_TYPES, Codec.OPUS),
}
