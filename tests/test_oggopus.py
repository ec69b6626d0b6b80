"""Tests of oggopus: headers, granule positions and whole files, judged by opusinfo, opusdec and ffprobe."""

import array
import json
import re
import struct
import subprocess
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from packets import FRAME_SAMPLES, decode, opus_speech, opus_tone
from twotrack import ogg, oggopus, opus
from twotrack.errors import OggError
from twotrack.oggopus import PRE_SKIP, OpusHead

GOLDEN_HEAD = bytes.fromhex("4f70757348656164 01 01 3801 80bb0000 0000 00")
TAGS = oggopus.tags_bytes("twotrack", [("TITLE", "input side")])


def _file(packets, total, tags=TAGS):
    return b"".join(oggopus.mono_file(packets, total, serial=1, tags=tags))


def _timed(packets, duration=FRAME_SAMPLES):
    return [(packet, duration) for packet in packets]


def _granule_positions(data):
    return [position for _, position in ogg.read_packets(data) if position is not None]


def _opusdec(path):
    command = ["opusdec", "--quiet", "--no-dither", "--rate", "48000", str(path), "-"]
    return array.array("h", subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def _opusinfo(path):
    done = subprocess.run(["opusinfo", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def speech_file(tmp_path_factory):
    """A mono file of 5.5 s of speech-like sound."""
    path = tmp_path_factory.mktemp("oggopus") / "speech.opus"
    path.write_bytes(_file(_timed(opus_speech(276)), 264_000))
    return path


def test_golden_head():
    """The identification header has the bytes of RFC 7845 section 5.1."""
    assert oggopus.head_bytes(1) == GOLDEN_HEAD


def test_golden_tags():
    """The comment header has the bytes of RFC 7845 section 5.2, in UTF-8."""
    packet = oggopus.tags_bytes("vendør", [("TITLE", "é"), ("A", "")])
    assert packet == b"OpusTags\x07\0\0\0vend\xc3\xb8r\x02\0\0\0\x08\0\0\0TITLE=\xc3\xa9\x02\0\0\0A="


@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda tail: b"OpusHead" + tail))
def test_parse_head_raises_only_what_it_says(packet):
    """Arbitrary bytes are an OpusHead or an OggError."""
    try:
        assert isinstance(oggopus.parse_head(packet), OpusHead)
    except OggError:
        assert len(packet) < 19 or not packet.startswith(b"OpusHead") or packet[8] > 0x0F


@given(st.integers(1, 255), st.integers(0, 65_535), st.integers(0, 192_000), st.integers(-32_768, 32_767))
def test_parse_head_reads_every_field(channels, pre_skip, rate, gain):
    """Every field of an OpusHead packed by hand is read back."""
    packet = b"OpusHead" + struct.pack("<BBHIhB", 1, channels, pre_skip, rate, gain, 1)
    assert oggopus.parse_head(packet) == OpusHead(channels, pre_skip, rate, gain, 1)


@pytest.mark.parametrize("version", [0x10, 0x20, 0xF1])
def test_parse_head_refuses_another_major_version(version):
    """A version whose upper four bits are not zero is incompatible (RFC 7845 section 5.1)."""
    with pytest.raises(OggError):
        oggopus.parse_head(GOLDEN_HEAD[:8] + bytes((version,)) + GOLDEN_HEAD[9:])


def test_headers_have_pages_of_their_own():
    """Identification and comment header are alone on their pages, at granule position 0."""
    data = _file(_timed(opus_tone(440, 10)), 1000)
    assert data[26:28] == bytes((1, len(GOLDEN_HEAD)))
    packets = list(ogg.read_packets(data))
    assert packets[:2] == [(GOLDEN_HEAD, 0), (TAGS, 0)]


def test_granule_positions_grow_by_what_the_packets_hold():
    """Each page's granule position is the sum of all durations up to it; the last one trims the end."""
    packets = _timed(opus_tone(440, 151))
    positions = _granule_positions(_file(packets, 144_000))
    assert positions == [0, 0, 48_000, 96_000, 144_000, 144_000 + PRE_SKIP]


def test_a_page_holds_a_second_at_most():
    """Durations that do not divide a second never make a page longer than it."""
    packets = _timed(opus_tone(440, 100, 480), 480) + _timed(opus_tone(440, 60)) + _timed(opus_tone(440, 90, 480), 480)
    positions = _granule_positions(_file(packets, 100 * 480 + 60 * 960 + 80 * 480))
    assert all(0 <= after - before <= 48_000 for before, after in pairwise(positions[1:]))


def test_packets_beyond_the_end_are_left_out():
    """No packet lies wholly beyond the end that the last granule position sets."""
    _, packets, samples = oggopus.read_audio(_file(_timed(opus_tone(440, 20)), 960))
    assert (len(packets), samples) == (2, 960)


def test_too_few_packets_are_refused():
    """Packets that don't reach the file's end are a mistake of the caller."""
    with pytest.raises(ValueError, match="1920 samples"):
        _file(_timed(opus_tone(440, 2)), 1920)


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(0, 959))
@example(12, 960 - PRE_SKIP)
def test_read_audio_gives_back_what_was_written(count, trimmed):
    """Header, packets and length of a file are read back as they were written."""
    packets = opus_speech(41)[: count + 1]
    total = max(1, count * FRAME_SAMPLES - trimmed)
    head, read, samples = oggopus.read_audio(_file(_timed(packets), total))
    assert head == OpusHead(1, PRE_SKIP, 48_000, 0, 0)
    assert samples == total
    assert read == packets[: -(-(total + PRE_SKIP) // FRAME_SAMPLES)]


@pytest.mark.parametrize("packets", [[], [GOLDEN_HEAD], [GOLDEN_HEAD, b"x"], [b"x", TAGS], [b"OpusHead", TAGS, b"x"]])
def test_another_ogg_file_is_refused(packets):
    """An Ogg file without both Opus headers is an OggError."""
    with pytest.raises(OggError, match="not an Ogg Opus file"):
        oggopus.read_audio(b"".join(ogg.write_pages([[(packet, 0)] for packet in packets], 1)))


def test_opusinfo_finds_no_fault(speech_file):
    """The program opusinfo reports no warning, the length, the comment and pages of a second at most."""
    code, text = _opusinfo(speech_file)
    assert code == 0
    assert "WARNING" not in text.upper()
    assert "Playback length: 0m:05.500s" in text
    assert "TITLE=input side" in text
    assert float(re.search(r"Page duration:\s*([\d.]+)ms \(max\)", text)[1]) <= 1000


def test_opusinfo_finds_no_fault_in_filled_gaps(tmp_path):
    """The program opusinfo reports no warning for concealment and silence of all durations among the audio."""
    speech = opus_speech(20)
    filling = opus.concealment(speech[9], 2400) + opus.silence(960 + 480 + 240 + 120)
    path = tmp_path / "filled.opus"
    path.write_bytes(_file(_timed(speech[:10]) + filling + _timed(speech[10:]), 20 * 960 + 2400 + 1800 - PRE_SKIP))
    code, text = _opusinfo(path)
    assert (code, "WARNING" in text.upper()) == (0, False)


def test_ffprobe_measures_the_length(speech_file):
    """The program ffprobe finds one mono Opus stream of the given length."""
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(speech_file)]
    probed = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    (stream,) = probed["streams"]
    assert (stream["codec_name"], stream["channels"]) == ("opus", 1)
    assert stream["duration_ts"] - stream.get("start_pts", 0) in (264_000, 264_000 + PRE_SKIP)
    assert float(probed["format"]["duration"]) == pytest.approx(5.5, abs=0.007)


def test_opusdec_decodes_what_the_packets_hold(speech_file):
    """The program opusdec plays, sample for sample, what libopus decodes after the pre-skip, to the very end."""
    expected = decode(opus_speech(276))[PRE_SKIP : PRE_SKIP + 264_000]
    assert _opusdec(speech_file) == expected


def test_ffmpeg_decodes_what_the_packets_hold(speech_file):
    """FFmpeg with libopus plays, sample for sample, what libopus decodes after the pre-skip."""
    command = ["ffmpeg", "-v", "error", "-c:a", "libopus", "-i", str(speech_file), "-f", "s16le", "-"]
    pcm = array.array("h", subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    expected = decode(opus_speech(276))[PRE_SKIP:]
    assert pcm[:264_000] == expected[:264_000]
