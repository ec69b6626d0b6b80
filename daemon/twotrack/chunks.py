"""The seed's names for what a program gives to the library, and one side's packets as a mono file; pure."""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from twotrack import oggopus, rtp
from twotrack.codecs import Codec
from twotrack.errors import MediaError
from twotrack.report import SOFTWARE
from twotrack.side import Side
from twotrack.track import Received, fill, lay


class AudioType(StrEnum):
    """Whose audio a packet is; the seed's names."""

    WHATSAPP_INPUT = "whatsapp_input"
    AI_OUTPUT = "ai_output"

    @property
    def side(self) -> Side:
        """The side of the call, and so the channel."""
        return Side.INPUT if self is AudioType.WHATSAPP_INPUT else Side.OUTPUT


class AudioFormat(StrEnum):
    """What a packet given by the library carries."""

    OPUS = "opus"
    PCMU = "pcmu"
    PCMA = "pcma"


class AudioChunk(NamedTuple):
    """One RTP packet for `create_ogg_opus_file`; `timestamp` is its arrival in seconds."""

    rtp_packet: bytes
    timestamp: float


def ogg_opus_file(chunks: Iterable[AudioChunk | bytes], payload_types: Mapping[int, Codec]) -> bytes:
    """Bytes of a mono Ogg Opus file; see `AudioCacheService.create_ogg_opus_file`."""
    laid = lay(list(_received(chunks, payload_types)), Side.INPUT, payload_types)
    if laid.start is None or laid.end is None:
        raise MediaError("the chunks hold no audio: give RTP packets of an audio payload type")
    total = laid.end - laid.start
    track = fill(laid, laid.start, total)
    tags = oggopus.tags_bytes(SOFTWARE, [])
    return b"".join(oggopus.mono_file(track.packets, total, serial=1, tags=tags))


def _received(chunks: Iterable[AudioChunk | bytes], payload_types: Mapping[int, Codec]) -> Iterator[Received]:
    """Packets and their arrivals; a packet given alone arrives when its timestamp says."""
    timestamp = 0
    for chunk in chunks:
        packet = rtp.parse(chunk if isinstance(chunk, bytes) else chunk.rtp_packet)
        if isinstance(packet, rtp.Malformed):
            continue
        if isinstance(chunk, AudioChunk):
            yield Received(round(chunk.timestamp * 1e9), packet)
            continue
        codec = payload_types.get(packet.payload_type, Codec.OPUS)
        timestamp = rtp.extend(packet.timestamp, timestamp or packet.timestamp, rtp.TIMESTAMP_BITS)
        yield Received(timestamp * 1_000_000_000 // codec.clock_rate, packet)
