"""What tests feed and judge with: RTP by struct, Opus by libopus, independent of the code under test."""

import array
import ctypes
import math
import random
import struct
from collections.abc import Iterable, Sequence
from functools import cache

from twotrack.opus import load_library

SAMPLE_RATE = 48_000
FRAME_SAMPLES = 960  # 20 ms
INPUT_SSRC = 0x0001E240
OUTPUT_SSRC = 0x0009FBF1
OPUS_PAYLOAD_TYPE = 111
MAX_FRAMES = 48  # in one Opus packet

opuslib = load_library()
libopus = opuslib.api.libopus


def rtp_packet(
    sequence_number: int = 0,
    timestamp: int = 0,
    payload: bytes = b"\xf8\xff\xfe",
    *,
    ssrc: int = INPUT_SSRC,
    payload_type: int = OPUS_PAYLOAD_TYPE,
    marker: bool = False,
    csrcs: Sequence[int] = (),
    extension: tuple[int, bytes] | None = None,
    padding: int = 0,
) -> bytes:
    """One RTP packet; `extension` is its profile and body (whole words), `padding` its bytes in all."""
    flags = 2 << 6 | bool(padding) << 5 | (extension is not None) << 4 | len(csrcs)
    fixed = struct.pack(
        ">BBHII", flags, marker << 7 | payload_type, sequence_number & 0xFFFF, timestamp & 0xFFFF_FFFF, ssrc
    )
    packet = fixed + b"".join(struct.pack(">I", csrc) for csrc in csrcs)
    if extension is not None:
        profile, body = extension
        packet += struct.pack(">HH", profile, len(body) // 4) + body
    return packet + payload + (bytes(padding - 1) + bytes((padding,)) if padding else b"")


def rtp_stream(
    payloads: Iterable[bytes],
    *,
    ssrc: int = INPUT_SSRC,
    sequence_number: int = 0,
    timestamp: int = 0,
    step: int = FRAME_SAMPLES,
    payload_type: int = OPUS_PAYLOAD_TYPE,
) -> list[bytes]:
    """Consecutive RTP packets; `step` is what the timestamp advances with each."""
    return [
        rtp_packet(sequence_number + i, timestamp + i * step, payload, ssrc=ssrc, payload_type=payload_type)
        for i, payload in enumerate(payloads)
    ]


def tone(frequency: float, samples: int, sample_rate: int = SAMPLE_RATE) -> "array.array[int]":
    """A sine of a quarter of full scale, as 16-bit PCM."""
    step = 2 * math.pi * frequency / sample_rate
    return array.array("h", [round(8192 * math.sin(step * i)) for i in range(samples)])


def speech(samples: int, seed: int = 1) -> "array.array[int]":
    """Speech-like PCM: syllables of a gliding voice with noise, and pauses between them."""
    chance, pcm = random.Random(seed), array.array("h")
    while len(pcm) < samples:
        pitch, glide = chance.uniform(90, 180), chance.uniform(-40, 40)
        pcm.extend(_syllable(chance, chance.randint(4_800, 14_400), pitch, glide))
        pcm.extend([0] * chance.randint(0, 7_200))
    return pcm[:samples]


def _syllable(chance: random.Random, length: int, pitch: float, glide: float) -> list[int]:
    phase, syllable = 0.0, []
    for i in range(length):
        phase += 2 * math.pi * (pitch + glide * i / length) / SAMPLE_RATE
        voice = math.sin(phase) + 0.6 * math.sin(3 * phase) + 0.4 * math.sin(7 * phase)
        loudness = 5_000 * math.sin(math.pi * i / length)
        syllable.append(round(loudness * (voice + chance.uniform(-0.1, 0.1))))
    return syllable


def encode(pcm: "array.array[int]", frame_samples: int = FRAME_SAMPLES, *, application: str = "voip") -> list[bytes]:
    """Whole frames of 48 kHz mono PCM as Opus packets, by libopus."""
    encoder = opuslib.Encoder(SAMPLE_RATE, 1, application)
    starts = range(0, len(pcm) - frame_samples + 1, frame_samples)
    return [encoder.encode(pcm[start : start + frame_samples].tobytes(), frame_samples) for start in starts]


@cache
def _cached_tone(frequency: float, count: int, frame_samples: int) -> tuple[bytes, ...]:
    return tuple(encode(tone(frequency, count * frame_samples), frame_samples))


def opus_tone(frequency: float, count: int, frame_samples: int = FRAME_SAMPLES) -> list[bytes]:
    """`count` Opus packets of a sine."""
    return list(_cached_tone(frequency, count, frame_samples))


@cache
def _cached_speech(count: int, frame_samples: int, seed: int) -> tuple[bytes, ...]:
    return tuple(encode(speech(count * frame_samples, seed), frame_samples))


def opus_speech(count: int, frame_samples: int = FRAME_SAMPLES, seed: int = 1) -> list[bytes]:
    """`count` Opus packets of speech-like sound; another seed, another voice."""
    return list(_cached_speech(count, frame_samples, seed))


def decode(packets: Iterable[bytes]) -> "array.array[int]":
    """48 kHz mono PCM of Opus packets, by libopus, nothing left out at the start."""
    decoder, pcm = opuslib.Decoder(SAMPLE_RATE, 1), array.array("h")
    buffer = (ctypes.c_int16 * 5760)()
    for packet in packets:
        count = libopus.opus_decode(decoder.decoder_state, packet, len(packet), buffer, 5760, 0)
        assert count > 0, f"libopus refuses the packet {packet.hex()}: {count}"
        pcm.extend(buffer[:count])
    return pcm


def libopus_frame_sizes(packet: bytes) -> list[int] | None:
    """The sizes of a packet's frames by libopus' own parser, or None if it refuses the packet."""
    sizes = (ctypes.c_int16 * MAX_FRAMES)()
    count = libopus.opus_packet_parse(packet, len(packet), None, None, sizes, None)
    return list(sizes[:count]) if count >= 0 else None


def libopus_samples(packet: bytes) -> int | None:
    """A packet's duration at 48 kHz by libopus, or None if it refuses the packet."""
    count = libopus.opus_packet_get_nb_samples(packet, len(packet), SAMPLE_RATE)
    return count if count >= 0 else None


def rms(pcm: Sequence[int]) -> float:
    """Loudness of PCM: root mean square."""
    return math.sqrt(sum(sample * sample for sample in pcm) / len(pcm)) if len(pcm) else 0.0
