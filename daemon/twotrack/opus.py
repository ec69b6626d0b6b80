"""One Opus packet: its frames, its duration, silence and concealment; libopus behind one door.

The only room that imports opuslib. Packet headers are read here in Python rather than through
libopus: a ctypes call costs more than the few comparisons, and a recorder must tell a malformed
packet from a good one without a decoder's state.

Source: RFC 6716 sections 3.1 to 3.4.
"""

import array
import ctypes
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

from twotrack.errors import DependencyError, OpusPacketError

Pcm: TypeAlias = "array.array[int]"  # 16-bit samples
SAMPLE_RATE = 48_000
GRID_SAMPLES = 120  # 2.5 ms: the shortest frame, so the finest grid silence can fill
FRAME_SAMPLES = 960  # 20 ms: what nearly every sender's frames last
MAX_PACKET_SAMPLES = 5_760  # 120 ms, RFC 6716 requirement R5
MAX_FRAME_BYTES = 1_275  # requirement R2
_SILK_FRAME_SAMPLES = (480, 960, 1920, 2880)
_HYBRID_FRAME_SAMPLES = (480, 960)
_CELT_FRAME_SAMPLES = (120, 240, 480, 960)

# What libopus makes of zeros, 20 to 2.5 ms. SILK where it has the duration: a CELT frame of silence
# lowers the decoder's band energies, from which CELT audio after it would need 100 ms to rise again.
SILENCE_PACKETS = (
    (960, bytes.fromhex("0807c6b30ec6")),
    (480, bytes.fromhex("0007c08f48")),
    (240, b"\xe8\xff\xfe"),
    (120, b"\xe0\xff\xfe"),
)


def frame_samples(toc: int) -> int:
    """Duration of each frame of a packet with this TOC byte, in 48 kHz samples (RFC 6716 3.1)."""
    config = toc >> 3
    if config < 12:
        return _SILK_FRAME_SAMPLES[config & 3]
    if config < 16:
        return _HYBRID_FRAME_SAMPLES[config & 1]
    return _CELT_FRAME_SAMPLES[config & 3]


def packet_samples(packet: bytes) -> int:
    """Duration of a packet in 48 kHz samples.

    Raises:
        OpusPacketError: The packet breaks one of the requirements R1 to R7 of RFC 6716 3.4.
    """
    return len(split_frames(packet)) * frame_samples(packet[0])


def split_frames(packet: bytes) -> list[bytes]:
    """The frames of a packet, each as its compressed bytes (empty: nothing was sent for it).

    Raises:
        OpusPacketError: The packet is malformed.
    """
    if not packet:
        raise OpusPacketError("an Opus packet holds at least its TOC byte")
    code, body = packet[0] & 3, packet[1:]
    frames = (_one_frame, _two_equal_frames, _two_frames, _many_frames)[code](body)
    if any(len(frame) > MAX_FRAME_BYTES for frame in frames):
        raise OpusPacketError(f"an Opus frame holds at most {MAX_FRAME_BYTES} bytes")
    if len(frames) * frame_samples(packet[0]) > MAX_PACKET_SAMPLES:
        raise OpusPacketError("an Opus packet lasts at most 120 ms")
    return frames


def _one_frame(body: bytes) -> list[bytes]:
    return [body]


def _two_equal_frames(body: bytes) -> list[bytes]:
    if len(body) % 2:
        raise OpusPacketError("a code 1 packet holds two frames of one length")
    half = len(body) // 2
    return [body[:half], body[half:]]


def _two_frames(body: bytes) -> list[bytes]:
    length, start = _frame_length(body, 0)
    if start + length > len(body):
        raise OpusPacketError("a code 2 packet is cut within its first frame")
    return [body[start : start + length], body[start + length :]]


def _many_frames(body: bytes) -> list[bytes]:
    if not body:
        raise OpusPacketError("a code 3 packet is cut before its frame count")
    count, is_vbr, is_padded = body[0] & 0x3F, body[0] & 0x80, body[0] & 0x40
    if not count:
        raise OpusPacketError("a code 3 packet holds at least one frame")
    start, end = _skip_padding(body) if is_padded else (1, len(body))
    if start > end:
        raise OpusPacketError("a code 3 packet's padding is longer than the packet")
    if is_vbr:
        return _vbr_frames(body[start:end], count)
    length, rest = divmod(end - start, count)
    if rest:
        raise OpusPacketError("a code 3 CBR packet holds frames of one length")
    return [body[start + i * length : start + (i + 1) * length] for i in range(count)]


def _skip_padding(body: bytes) -> tuple[int, int]:
    """Where the frames of a padded code 3 packet begin and end (RFC 6716 section 3.2.5)."""
    start, padding = 1, 0
    while True:
        if start >= len(body):
            raise OpusPacketError("a code 3 packet is cut within its padding length")
        value = body[start]
        start += 1
        padding += 254 if value == 255 else value
        if value != 255:
            return start, len(body) - padding


def _vbr_frames(body: bytes, count: int) -> list[bytes]:
    lengths, start = [], 0
    for _ in range(count - 1):
        length, start = _frame_length(body, start)
        lengths.append(length)
    frames = []
    for length in lengths:
        frames.append(body[start : start + length])
        start += length
    if start > len(body):
        raise OpusPacketError("a code 3 VBR packet is cut within its frames")
    frames.append(body[start:])
    return frames


def _frame_length(body: bytes, start: int) -> tuple[int, int]:
    """A frame length and where it ends (RFC 6716 section 3.2.1)."""
    if start >= len(body):
        raise OpusPacketError("an Opus packet is cut within a frame length")
    first = body[start]
    if first < 252:
        return first, start + 1
    if start + 1 >= len(body):
        raise OpusPacketError("an Opus packet is cut within a frame length")
    return 4 * body[start + 1] + first, start + 2


def join_frames(toc: int, frames: Sequence[bytes], *, is_self_delimited: bool = False) -> bytes:
    """A packet of frames that share a TOC byte; its frame count code is set here.

    Args:
        toc: Configuration and channel flag; the two lowest bits are left aside.
        frames: 1 to 48 of them, 120 ms at most.
        is_self_delimited: Say the last frame's length too, so that another packet can follow
            (RFC 6716 appendix B).
    """
    sizes = [len(frame) for frame in frames]
    are_alike = len(set(sizes)) == 1
    code = 3
    if len(frames) < 3:
        code = 0 if len(frames) == 1 else 1 if are_alike else 2
    header = bytearray((toc & 0xFC | code,))
    if code == 3:
        header.append(len(frames) | (0 if are_alike else 0x80))
    if not are_alike:
        header += b"".join(_length_bytes(size) for size in sizes[:-1])
    if is_self_delimited:
        header += _length_bytes(sizes[-1])
    return bytes(header) + b"".join(frames)


def _length_bytes(length: int) -> bytes:
    """A frame length of one or two bytes (RFC 6716 section 3.2.1)."""
    if length < 252:
        return bytes((length,))
    first = 252 + (length & 3)
    return bytes((first, (length - first) >> 2))


def silence(samples: int) -> list[tuple[bytes, int]]:
    """Encoded silence of exactly `samples` (a multiple of 120), as (packet, samples) pairs.

    The shortest packets come first, so that audio follows the longest.
    """
    if samples % GRID_SAMPLES:
        raise ValueError(f"silence is made in steps of {GRID_SAMPLES} samples, not {samples}")
    packets: list[tuple[bytes, int]] = []
    for duration, packet in SILENCE_PACKETS:
        count, samples = divmod(samples, duration)
        packets += [(packet, duration)] * count
    return packets[::-1]


def concealment(previous: bytes, samples: int) -> list[tuple[bytes, int]]:
    """Packets of the TOC byte alone: the decoder conceals this much after the packet `previous`.

    They keep the mode, bandwidth and frame duration of `previous`; what is left of `samples` (a
    multiple of 120) beyond whole frames is encoded silence.

    Source: RFC 6716 section 3.2.1; RFC 7845 section 4.1.
    """
    toc = previous[0] & 0xFC  # code 0: one frame
    duration = frame_samples(toc)
    count, rest = divmod(samples, duration)
    return [(bytes((toc,)), duration)] * count + silence(rest)


def load_library() -> Any:
    """opuslib, with libopus behind it.

    Raises:
        DependencyError: libopus is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # opuslib 3.0.1 compares integers with `is`
            import opuslib
    except Exception as error:  # opuslib raises a bare Exception without libopus
        raise DependencyError("libopus is missing: install it with: apt-get install libopus0") from error
    return opuslib


class Encoder:
    """A mono speech encoder, for sides that come as G.711.

    Args:
        sample_rate: Of the PCM that it is given, in Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        library = load_library()
        self._sample_rate = sample_rate
        self._encoder = library.Encoder(sample_rate, 1, library.APPLICATION_VOIP)

    def encode(self, pcm: Pcm) -> list[tuple[bytes, int]]:
        """Encode 16-bit mono PCM; the end is filled with silence up to the next 2.5 ms.

        Returns:
            (packet, 48 kHz samples) pairs of 20, 10, 5 and 2.5 ms that hold all of `pcm`.
        """
        scale = SAMPLE_RATE // self._sample_rate
        pcm = pcm + array.array("h", bytes(2 * (-len(pcm) % (GRID_SAMPLES // scale))))
        packets, start = [], 0
        for duration, _ in SILENCE_PACKETS:
            frame = duration // scale
            while len(pcm) - start >= frame:
                packet = self._encoder.encode(pcm[start : start + frame].tobytes(), frame)
                packets.append((packet, duration))
                start += frame
        return packets


class Decoder:
    """Decodes to 16-bit PCM.

    Args:
        sample_rate: Of the PCM that it returns, in Hz: 8000, 12000, 16000, 24000 or 48000.
        channels: 1 or 2, interleaved.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        library = load_library()
        self._samples = MAX_PACKET_SAMPLES * sample_rate // SAMPLE_RATE
        self._buffer = (ctypes.c_int16 * (self._samples * channels))()
        self._channels = channels
        self._decode = library.api.libopus.opus_decode
        self._decoder = library.Decoder(sample_rate, channels)

    def decode(self, packet: bytes) -> Pcm:
        """PCM of one packet, interleaved.

        Raises:
            OpusPacketError: libopus refuses the packet.
        """
        count = self._decode(self._decoder.decoder_state, packet, len(packet), self._buffer, self._samples, 0)
        if count < 0:
            raise OpusPacketError(f"libopus refused an Opus packet with error {count}")
        return array.array("h", bytes(self._buffer)[: 2 * count * self._channels])
