"""The lossless engine: two tracks interleaved, each decoding as if it were alone."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packets import decode as decode_packets
from packets import libopus_frame_sizes, opus_speech, opus_tone
from sound import decode
from twotrack import oggopus, opus
from twotrack.errors import MergeError
from twotrack.merge.lossless import interleave
from twotrack.oggopus import PRE_SKIP, Packet
from twotrack.rtp import RtpPacket
from twotrack.side import Side
from twotrack.track import Received, fill, lay

TAGS = oggopus.tags_bytes("test", [])


def timed(packets: list[bytes]) -> list[Packet]:
    """Packets with their durations."""
    return [(packet, opus.packet_samples(packet)) for packet in packets]


def written(path: Path, left: list[Packet], right: list[Packet]) -> tuple[Path, int]:
    """The stereo file of two tracks, and how many samples it plays."""
    total = max(sum(samples for _, samples in track) for track in (left, right)) - PRE_SKIP
    packets = interleave(left, right)
    path.write_bytes(b"".join(oggopus.stereo_file(packets, total, serial=3, tags=TAGS)))
    return path, total


@pytest.mark.parametrize("durations", [(960, 960), (960, 2880), (480, 960), (1920, 960), (120, 2880), (2880, 2880)])
def test_each_channel_decodes_as_its_own_packets(tmp_path: Path, durations: tuple[int, int]) -> None:
    """Whatever the sides' packets last, each channel is sample for sample what libopus makes of its packets."""
    tracks = [timed(opus_speech(57_600 // duration, duration, seed)) for seed, duration in enumerate(durations, 1)]
    path, total = written(tmp_path / "merged.opus", *tracks)
    for channel, track in zip(decode(path), tracks, strict=True):
        assert channel == decode_packets([packet for packet, _ in track])[PRE_SKIP : PRE_SKIP + total]


def test_independent_readers_agree(tmp_path: Path) -> None:
    """Opusinfo has no warning, and opusdec and FFmpeg's own decoder find two channels of the same length."""
    path, total = written(tmp_path / "merged.opus", timed(opus_speech(100)), timed(opus_tone(440, 100)))
    info = subprocess.run(["opusinfo", path], capture_output=True, text=True, check=True)
    assert "WARNING" not in info.stdout + info.stderr
    assert "Streams: 2, Coupled: 0" in info.stdout
    wave = tmp_path / "merged.wav"
    subprocess.run(["opusdec", "--quiet", "--rate", "48000", path, wave], check=True, capture_output=True)
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-"]
    native = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(native) == total * 4
    assert abs(wave.stat().st_size - total * 4) < 200


def test_size_is_that_of_the_packets(tmp_path: Path) -> None:
    """The file is at most 3 % larger than both sides' packets."""
    left, right = timed(opus_speech(500)), timed(opus_speech(500, seed=2))
    path, _ = written(tmp_path / "merged.opus", left, right)
    payload = sum(len(packet) for packet, _ in left + right)
    assert path.stat().st_size <= payload * 1.03


def test_silence_beside_long_frames_is_regrouped() -> None:
    """Silence of 20 ms frames next to speech joins packets of 60 ms on the other side."""
    long = [(opus.join_frames(11 << 3, [b"x" * 40]), 2880)] * 10
    speech = timed(opus_tone(440, 24))
    right = opus.silence(960 * 2) + speech + opus.silence(960 * 4)
    packets = list(interleave(long, right))
    assert [samples for _, samples in packets] == [2880] * 10


def test_sides_without_a_common_boundary_are_refused() -> None:
    """Frames of 60 ms that never end together can't be regrouped."""
    long = (opus.join_frames(11 << 3, [b"x" * 40]), 2880)
    with pytest.raises(MergeError, match="be regrouped at"):
        list(interleave([long] * 10, [*opus.silence(960), *[long] * 10]))


def test_unlike_frames_in_one_packet_are_refused() -> None:
    """Frames of two configurations can't join one packet."""
    long = (opus.join_frames(11 << 3, [b"x" * 40]), 2880)
    mixed = [(opus.join_frames(toc << 3, [b"y" * 30]), 960) for toc in (1, 5, 9)]
    with pytest.raises(MergeError):
        list(interleave([long], mixed))


def test_the_shorter_side_is_filled_up() -> None:
    """A side that ends early goes on as silence."""
    assert sum(samples for _, samples in interleave(timed(opus_tone(440, 10)), [])) == 9600


frame = st.binary(max_size=300) | st.binary(min_size=250, max_size=260) | st.just(bytes(1275))


@settings(deadline=None)
@given(st.lists(frame, min_size=1, max_size=6), st.sampled_from([0x08, 0x48, 0x7C, 0xF8]), st.booleans())
def test_frames_are_joined_as_libopus_reads_them(frames: list[bytes], toc: int, is_alike: bool) -> None:
    """A packet of joined frames is valid to libopus, which finds the same frames in it."""
    frames = [frames[0]] * len(frames) if is_alike else frames
    packet = opus.join_frames(toc, frames)
    assert libopus_frame_sizes(packet) == [len(one) for one in frames]
    assert opus.split_frames(packet) == frames


def test_self_delimited_packets_say_their_last_length() -> None:
    """The golden bytes of RFC 6716 appendix B, figures 21 to 25."""
    assert opus.join_frames(0xF8, [b"ab"], is_self_delimited=True) == b"\xf8\x02ab"
    assert opus.join_frames(0xF8, [b"ab", b"cd"], is_self_delimited=True) == b"\xf9\x02abcd"
    assert opus.join_frames(0xF8, [b"a", b"cd"], is_self_delimited=True) == b"\xfa\x01\x02acd"
    assert opus.join_frames(0xF8, [b"ab"] * 3, is_self_delimited=True) == b"\xfb\x03\x02ababab"
    assert opus.join_frames(0xF8, [b"a", b"", b"cd"], is_self_delimited=True) == b"\xfb\x83\x01\x00\x02acd"
    long = bytes(300)
    assert opus.join_frames(0xF8, [long], is_self_delimited=True) == b"\xf8\xfc\x0c" + long


@pytest.mark.parametrize("offset", [0, 337])
def test_g711_is_interleaved(offset: int) -> None:
    """Sides that came as G.711 go into a lossless file, also off the grid and beside Opus."""
    received = [
        Received(n * 20_000_000, RtpPacket(1, n, n * 160, 0, False, bytes([n % 128 + 64] * 160))) for n in range(50)
    ]
    side = lay(received, Side.INPUT)
    tracks = [fill(side, -at, 96_000, opus.FRAME_SAMPLES).packets for at in (0, offset)]
    for right in (tracks[1], timed(opus_speech(60))):
        assert list(interleave(tracks[0], right))
