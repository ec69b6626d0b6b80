"""Two tracks to one stereo file without decoding: two uncoupled mono streams in one Opus stream.

Each Ogg packet holds one Opus packet of either side, of one duration. Where the sides' packets are
not of one duration they are split into frames and regrouped, so that both have a boundary at the
same time. What lies in one Opus packet shares one configuration; silence in between takes the
configuration of its neighbours as frames that are empty, which the decoder continues from what it
played last.

Source: RFC 7845 sections 3 and 5.1.1.2 (mapping family 1); RFC 6716 section 3.2 and appendix B.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from twotrack import opus
from twotrack.errors import MergeError
from twotrack.oggopus import Packet


class _Frame(NamedTuple):
    """One frame: its configuration (the TOC byte without its frame count code), bytes and duration."""

    toc: int
    content: bytes
    samples: int

    @property
    def is_silence(self) -> bool:
        """True if this is silence that was put in to fill a gap."""
        return (bytes((self.toc,)) + self.content, self.samples) in _SILENCE


_SILENCE = {(packet, samples) for samples, packet in opus.SILENCE_PACKETS}


def interleave(left: Sequence[Packet], right: Sequence[Packet]) -> Iterator[Packet]:
    """Regroup two gapless tracks of one length.

    Args:
        left: Opus packets and their durations.
        right: Likewise; the shorter side is filled up with silence.

    Yields:
        Ogg packets with their durations: the left packet self-delimited, then the right one.

    Raises:
        MergeError: The sides' packets have no common boundary within 120 ms, or no packet of one
            configuration can be made of a side's frames up to there.
    """
    lefts, rights = _frames(left), _frames(right)
    _pad_shorter(lefts, rights)
    left_start = right_start = position = 0
    while left_start < len(lefts) or right_start < len(rights):
        left_end, right_end, samples = _common_boundary(lefts, left_start, rights, right_start)
        try:
            packet = _join(lefts[left_start:left_end], is_self_delimited=True)
            packet += _join(rights[right_start:right_end], is_self_delimited=False)
        except _UnlikeFramesError:
            raise _refusal(position) from None
        yield packet, samples
        left_start, right_start, position = left_end, right_end, position + samples


def _pad_shorter(lefts: list[_Frame], rights: list[_Frame]) -> None:
    lead = sum(frame.samples for frame in lefts) - sum(frame.samples for frame in rights)
    shorter = rights if lead > 0 else lefts
    shorter += _frames(opus.silence(abs(lead)))


class _UnlikeFramesError(Exception):
    """Frames of unlike configurations can't be one packet."""


def _frames(track: Sequence[Packet]) -> list[_Frame]:
    return [
        _Frame(packet[0] & 0xFC, frame, opus.frame_samples(packet[0]))
        for packet, _ in track
        for frame in opus.split_frames(packet)
    ]


def _common_boundary(
    lefts: list[_Frame], left_start: int, rights: list[_Frame], right_start: int
) -> tuple[int, int, int]:
    """Where both sides' frames end together for the first time: two indexes, and the duration."""
    left_end, right_end, left_samples, right_samples = left_start, right_start, 0, 0
    while not left_samples or left_samples != right_samples:
        if left_samples <= right_samples and left_end < len(lefts):
            left_samples += lefts[left_end].samples
            left_end += 1
        elif right_end < len(rights):
            right_samples += rights[right_end].samples
            right_end += 1
        else:
            raise _refusal(sum(frame.samples for frame in lefts[:left_start]))
        if max(left_samples, right_samples) > opus.MAX_PACKET_SAMPLES:
            raise _refusal(sum(frame.samples for frame in lefts[:left_start]))
    return left_end, right_end, left_samples


def _refusal(position: int) -> MergeError:
    return MergeError(f"the sides' packets can't be regrouped at {position / opus.SAMPLE_RATE:.2f} s")


def _join(frames: list[_Frame], *, is_self_delimited: bool) -> bytes:
    """One packet of frames; silence among frames of another configuration becomes empty frames."""
    spoken = {(frame.toc, frame.samples) for frame in frames if not frame.is_silence}
    if len(spoken) > 1:
        raise _UnlikeFramesError
    if not spoken:
        return _join_silence(frames, is_self_delimited=is_self_delimited)
    toc, samples = spoken.pop()
    contents: list[bytes] = []
    for frame in frames:
        if frame.toc == toc:
            contents.append(frame.content)
        elif frame.samples % samples:
            raise _UnlikeFramesError
        else:
            contents += [b""] * (frame.samples // samples)
    return opus.join_frames(toc, contents, is_self_delimited=is_self_delimited)


def _join_silence(frames: list[_Frame], *, is_self_delimited: bool) -> bytes:
    """One packet of silence alone, in frames of the shortest duration among them."""
    shortest = min(frames, key=lambda frame: frame.samples)
    count = sum(frame.samples for frame in frames) // shortest.samples
    return opus.join_frames(shortest.toc, [shortest.content] * count, is_self_delimited=is_self_delimited)
