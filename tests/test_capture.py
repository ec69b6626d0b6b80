"""Tests of capture: capture files, written by dpkt, to the two sides of a call."""

import io
from pathlib import Path

import dpkt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packets import INPUT_SSRC, OUTPUT_SSRC, opus_tone, rtp_packet, rtp_stream
from twotrack import capture, pcap
from twotrack.capture import Choice
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES
from twotrack.errors import CaptureError
from twotrack.pcap import SpoolPorts
from twotrack.side import Side

START_S = 1_767_268_800
INPUT = rtp_stream(opus_tone(300, 10), ssrc=INPUT_SSRC)
OUTPUT = rtp_stream(opus_tone(700, 8), ssrc=OUTPUT_SSRC)


def _frame(payload, source, destination):
    udp = dpkt.udp.UDP(sport=source, dport=destination, ulen=8 + len(payload), data=payload)
    packet = dpkt.ip.IP(src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2", p=17, data=udp)
    packet.len = len(packet)
    return bytes(dpkt.ethernet.Ethernet(type=0x0800, data=packet))


def _timed(datagrams, source, destination, start_s=0.0):
    """Frames 20 ms apart, with their times."""
    return [(START_S + start_s + i * 0.02, _frame(d, source, destination)) for i, d in enumerate(datagrams)]


TWO_SIDES = sorted(_timed(INPUT, 4000, 4002) + _timed(OUTPUT, 4002, 4000, 0.05))


def _write(path, frames, writer=dpkt.pcap.Writer):
    with path.open("wb") as file:
        output = writer(file)
        for time_s, frame in frames:
            output.writepkt(frame, time_s)
    return path


def _read(*paths, **choice):
    return capture.read_call(paths, Choice(**choice), DEFAULT_PAYLOAD_TYPES)


def _counts(call):
    return {str(side): len(received) for side, received in call.sides.items()}


def _spool(path, ports):
    content = pcap.spool_header(ports)
    for datagrams, port in ((INPUT, ports.input), (OUTPUT, ports.output)):
        header = pcap.frame_header(("127.0.0.1", 40_000), ("127.0.0.1", port))
        for i, datagram in enumerate(datagrams):
            content += pcap.record(START_S * 10**9 + i * 20_000_000, header(len(datagram)), datagram)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("writer", [dpkt.pcap.Writer, dpkt.pcapng.Writer])
def test_two_sources_are_the_two_sides(tmp_path, writer):
    """Of two RTP sources the first to arrive is the input, packet for packet and in time."""
    call = _read(_write(tmp_path / "call", TWO_SIDES, writer))
    assert _counts(call) == {"input": 10, "output": 8}
    assert call.datagrams == {Side.INPUT: INPUT, Side.OUTPUT: OUTPUT}
    first = call.sides[Side.OUTPUT][0]
    assert first.arrival_ns == pytest.approx(START_S * 10**9 + 50_000_000, abs=2000)
    assert first.packet.ssrc == OUTPUT_SSRC


def test_one_source_is_the_input(tmp_path):
    """A capture of one source has an input side alone."""
    call = _read(_write(tmp_path / "one.pcap", _timed(OUTPUT, 1, 2)))
    assert _counts(call) == {"input": 8, "output": 0}


def test_a_spool_names_its_sides(tmp_path):
    """In a spool the destination port tells the side, whatever arrived first."""
    path = _spool(tmp_path / "call.pcap", SpoolPorts(6000, 5000))
    assert _counts(_read(path)) == {"input": 10, "output": 8}
    assert _counts(capture.read_spool(path)) == {"input": 10, "output": 8}


def test_three_sources_are_listed_and_refused(tmp_path):
    """More than two sources are refused in one sentence that lists each."""
    third = rtp_stream(opus_tone(300, 3), ssrc=0xABCDEF01)
    path = _write(tmp_path / "three.pcap", TWO_SIDES + _timed(third, 7000, 7002, 1))
    with pytest.raises(CaptureError, match="3 RTP sources") as refused:
        _read(path)
    for ssrc in ("0x0001e240", "0x0009fbf1", "0xabcdef01"):
        assert ssrc in str(refused.value)
    assert "from 10.0.0.1 port 7000 to 10.0.0.2 port 7002" in str(refused.value)


def test_ports_choose_the_sides(tmp_path):
    """Given ports tell the sides, whatever arrived first."""
    path = _write(tmp_path / "call.pcap", TWO_SIDES)
    assert _counts(_read(path, input_port=4000, output_port=4002)) == {"input": 8, "output": 10}
    assert _counts(_read(path, output_port=4002)) == {"input": 0, "output": 10}


def test_ssrcs_choose_the_sides(tmp_path):
    """Given SSRCs tell the sides, and leave every other source out."""
    path = _write(tmp_path / "call.pcap", TWO_SIDES)
    assert _counts(_read(path, input_ssrc=OUTPUT_SSRC, output_ssrc=INPUT_SSRC)) == {"input": 8, "output": 10}
    assert _counts(_read(path, input_ssrc=INPUT_SSRC)) == {"input": 10, "output": 0}


@pytest.mark.parametrize("choice", [{"input_port": 9}, {"output_ssrc": 9}, {"input_ssrc": 1, "output_ssrc": 2}])
def test_a_choice_without_packets_is_refused(tmp_path, choice):
    """Ports or SSRCs that no packet has are refused."""
    with pytest.raises(CaptureError, match="no RTP of the given"):
        _read(_write(tmp_path / "call.pcap", TWO_SIDES), **choice)


def test_several_captures_are_joined_by_time(tmp_path):
    """Captures of one call are put in order of arrival, whatever the order they are named in."""
    paths = [_write(tmp_path / f"{i}.pcap", TWO_SIDES[i::3]) for i in (2, 0, 1)]
    joined = _read(*paths)
    assert joined.datagrams == _read(_write(tmp_path / "all.pcap", TWO_SIDES)).datagrams


def test_what_is_not_rtp_is_counted(tmp_path):
    """RTCP and broken datagrams on a side's port are counted by reason, and no audio."""
    others = [b"\x81\xc9" + bytes(30), b"\x80", bytes(40)]
    path = _write(tmp_path / "call.pcap", TWO_SIDES + _timed(others, 4000, 4002, 1))
    call = _read(path, input_port=4002, output_port=4000)
    assert _counts(call) == {"input": 10, "output": 8}
    assert call.dropped[Side.INPUT] == {"rtcp": 1, "too_short": 1, "bad_version": 1}
    assert not call.dropped[Side.OUTPUT]


def test_a_single_packet_is_no_source(tmp_path):
    """One datagram that looks like RTP between other addresses is chance, and changes nothing."""
    path = _write(tmp_path / "call.pcap", TWO_SIDES + _timed([rtp_packet(ssrc=9)], 1, 2))
    assert _counts(_read(path)) == {"input": 10, "output": 8}


def test_other_payload_types_are_no_source(tmp_path):
    """A source whose payload type carries no audio is not taken for a side."""
    video = rtp_stream([bytes(90)] * 5, ssrc=9, payload_type=34)
    path = _write(tmp_path / "call.pcap", TWO_SIDES + _timed(video, 1, 2))
    assert _counts(_read(path)) == {"input": 10, "output": 8}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (b"x", "too short"),
        (b"This is not a capture, but a text of some length.", "neither a pcap nor a pcapng"),
        (b"\x0a\x0d\x0d\x0a" + bytes(60), "damaged pcapng"),
        (pcap.spool_header(SpoolPorts(1, 2))[:20] + b"\x7f\0\0\0" + bytes(8) + b"\1\0\0\0" * 2 + b"x", "link type 127"),
    ],
)
def test_what_is_no_capture_is_refused(tmp_path, content, sentence):
    """A file that is no capture is refused in a sentence that names it and says why."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=sentence) as refused:
        _read(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("name", ["missing", "."])
def test_an_unreadable_file_is_refused(tmp_path, name):
    """A missing file and a directory are refused with the system's reason."""
    with pytest.raises(CaptureError, match=r"can't be read: \w+"):
        _read(tmp_path / name)


def test_a_capture_without_audio_is_refused(tmp_path):
    """A capture without an RTP source is refused."""
    with pytest.raises(CaptureError, match="no RTP audio"):
        _read(_write(tmp_path / "call.pcap", _timed([b"not RTP"] * 5, 1, 2)))


@pytest.mark.parametrize("writer", [dpkt.pcap.Writer, dpkt.pcapng.Writer])
def test_a_cut_capture_is_read_to_the_cut(tmp_path, writer):
    """A capture that is cut off within a packet gives all packets before."""
    path = _write(tmp_path / "call", TWO_SIDES, writer)
    path.write_bytes(path.read_bytes()[:-5])
    assert sum(_counts(_read(path)).values()) == len(TWO_SIDES) - 1


def _pcapng_bytes():
    file = io.BytesIO()
    writer = dpkt.pcapng.Writer(file)
    for time_s, frame in TWO_SIDES[:4]:
        writer.writepkt(frame, time_s)
    return file.getvalue()


def _read_or_refuse(path):
    try:
        return _read(path)
    except CaptureError as error:
        return None if _is_one_sentence(str(error)) else pytest.fail(f"not one sentence: {error}")


def _is_one_sentence(text):
    return text and "\n" not in text and not text.endswith(".")


PCAPNG = _pcapng_bytes()
a_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)


@a_file
@given(
    st.lists(st.tuples(st.integers(4, 200), st.integers(0, 255)), min_size=1, max_size=4), st.integers(4, len(PCAPNG))
)
def test_a_damaged_pcapng_is_read_or_refused(tmp_path, changes, end):
    """A pcapng with changed bytes and a cut end raises nothing but a CaptureError."""
    content = bytearray(PCAPNG)
    for index, value in changes:
        content[index] = value
    (tmp_path / "damaged").write_bytes(content[:end])
    _read_or_refuse(tmp_path / "damaged")


@a_file
@given(st.sampled_from([b"", b"\x0a\x0d\x0d\x0a", PCAPNG[:40], bytes.fromhex("d4c3b2a1")]), st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path, head, tail):
    """Arbitrary bytes, behind any magic number, raise nothing but a CaptureError."""
    (tmp_path / "file").write_bytes(head + tail)
    _read_or_refuse(tmp_path / "file")


def test_every_real_capture_is_read_or_refused(captures: Path):
    """Captures of real calls are read, or refused in one sentence."""
    files = sorted([*captures.rglob("*.pcap"), *captures.rglob("*.pcapng")])
    assert files
    assert any(_read_or_refuse(path) for path in files)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("webrtc-call1-two-sided-ext-rtcpmux.pcap", {"input": 501, "output": 460}),
        ("ast-opus-with-dtmf-2013785496.pcap", {"input": 765, "output": 0}),
        ("ms2-call-side-a-out.pcapng", {"input": 3501, "output": 0}),
        ("ms2-call-side-b-in-57pct-loss.pcapng", {"input": 483, "output": 0}),
        ("wireshark-pcma-cn-vad-two-sided.pcap", {"input": 47, "output": 201}),
    ],
)
def test_real_captures_have_their_sides(captures: Path, name, counts):
    """The sources of a real call are found, with all their packets."""
    assert _counts(_read(captures / name)) == counts


@pytest.mark.parametrize(
    "name", ["wireshark-two-sided-pcma-rtcp-relayed.pcap", "ndpi-opus-csrc-1byte-dtx-among-other-rtp.pcapng"]
)
def test_real_captures_of_many_sources_are_refused(captures: Path, name):
    """A capture of more than one call asks for a choice."""
    with pytest.raises(CaptureError, match="RTP sources, name two"):
        _read(captures / name)


def test_a_real_call_of_two_captures_is_joined(captures: Path):
    """Both sides of a call, captured into two files, become one call."""
    names = ("ms2-call-side-a-out.pcapng", "ms2-call-side-b-in-57pct-loss.pcapng")
    assert _counts(_read(*(captures / name for name in names))) == {"input": 3501, "output": 483}
