"""Tests of g711: both laws against FFmpeg's decoders."""

import array
import subprocess

import pytest

from twotrack import g711

ALL_CODES = bytes(range(256))
DECODERS = {"mulaw": g711.decode_pcmu, "alaw": g711.decode_pcma}


def _ffmpeg_samples(law):
    command = ["ffmpeg", "-loglevel", "error", "-f", law, "-ar", "8000", "-ac", "1", "-i", "pipe:0"]
    output = subprocess.run([*command, "-f", "s16le", "pipe:1"], input=ALL_CODES, stdout=subprocess.PIPE, check=True)
    return array.array("h", output.stdout)


@pytest.mark.parametrize("law", DECODERS)
def test_every_code_is_as_ffmpeg_decodes_it(law):
    """All 256 codes decode to the samples of FFmpeg's decoder."""
    assert list(DECODERS[law](ALL_CODES)) == list(_ffmpeg_samples(law))


@pytest.mark.parametrize(
    ("decode", "code", "sample"),
    [
        (g711.decode_pcmu, 0xFF, 0),
        (g711.decode_pcmu, 0x7F, 0),
        (g711.decode_pcmu, 0x80, 32_124),
        (g711.decode_pcmu, 0x00, -32_124),
        (g711.decode_pcma, 0xD5, 8),
        (g711.decode_pcma, 0x55, -8),
        (g711.decode_pcma, 0xAA, 32_256),
        (g711.decode_pcma, 0x2A, -32_256),
    ],
)
def test_golden_codes(decode, code, sample):
    """Silence and full scale have the standard's values."""
    assert list(decode(bytes((code,)))) == [sample]


@pytest.mark.parametrize("decode", DECODERS.values())
def test_one_sample_for_each_byte(decode):
    """A payload has as many samples as bytes; an empty one has none."""
    assert len(decode(bytes(160))) == 160
    assert len(decode(b"")) == 0
