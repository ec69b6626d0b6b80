"""PCMU and PCMA: one byte to one 16-bit sample, by tables made from the standard's formulas.

Source: ITU-T G.711 (1988), tables 1a to 2b.
"""

import array

from twotrack.opus import Pcm

_BIAS = 0x84


def _mu_law(code: int) -> int:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + _BIAS) << (code >> 4 & 7)
    return _BIAS - magnitude if code & 0x80 else magnitude - _BIAS


def _a_law(code: int) -> int:
    code ^= 0x55
    segment, mantissa = code >> 4 & 7, code & 0x0F
    magnitude = (mantissa << 4) + 8 if not segment else ((mantissa << 4) + 0x108) << (segment - 1)
    return magnitude if code & 0x80 else -magnitude


_MU_LAW_TABLE = [_mu_law(code) for code in range(256)]
_A_LAW_TABLE = [_a_law(code) for code in range(256)]


def decode_pcmu(payload: bytes) -> Pcm:
    """16-bit samples at 8 kHz of a PCMU payload."""
    return array.array("h", [_MU_LAW_TABLE[code] for code in payload])


def decode_pcma(payload: bytes) -> Pcm:
    """16-bit samples at 8 kHz of a PCMA payload."""
    return array.array("h", [_A_LAW_TABLE[code] for code in payload])
