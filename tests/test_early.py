"""Tests of early: packets that race their `open`."""

from hypothesis import given
from hypothesis import strategies as st

from twotrack.early import KEPT_NS, OVERHEAD_BYTES, EarlyPacket, EarlyPackets
from twotrack.side import Side

SOURCE = ("127.0.0.1", 40_000)
SIZE = 100 + OVERHEAD_BYTES


def _packet(arrival_ns, size=100):
    return EarlyPacket(arrival_ns, SOURCE, bytes(size))


def test_claimed_packets_come_in_order():
    """What was kept for an SSRC of a side is handed over once, in the order of arrival."""
    early = EarlyPackets()
    packets = [_packet(i) for i in range(5)]
    assert all(early.keep(Side.INPUT, 1, packet) for packet in packets)
    assert early.claim(Side.INPUT, 1, 5) == (packets, 0)
    assert early.claim(Side.INPUT, 1, 5) == ([], 0)


def test_sides_and_ssrcs_are_apart():
    """The same SSRC on the other side, and another one, are not handed over."""
    early = EarlyPackets()
    early.keep(Side.INPUT, 1, _packet(0))
    assert early.claim(Side.OUTPUT, 1, 0) == ([], 0)
    assert early.claim(Side.INPUT, 2, 0) == ([], 0)
    assert early.claim(Side.INPUT, 1, 0) == ([_packet(0)], 0)


def test_only_young_packets_are_handed_over():
    """Packets older than 10 s are left out and counted; one of exactly 10 s is kept."""
    early = EarlyPackets()
    for arrival_ns in (0, 1, 5):
        early.keep(Side.INPUT, 1, _packet(arrival_ns))
    assert early.claim(Side.INPUT, 1, KEPT_NS + 1) == ([_packet(1), _packet(5)], 1)


def test_the_bound_refuses_more():
    """What does not fit in the bound is refused, and a claim makes room again."""
    early = EarlyPackets(limit_bytes=2 * SIZE)
    assert early.keep(Side.INPUT, 1, _packet(0))
    assert early.keep(Side.OUTPUT, 2, _packet(0))
    assert not early.keep(Side.INPUT, 3, _packet(0))
    early.claim(Side.INPUT, 1, 0)
    assert early.keep(Side.INPUT, 3, _packet(0))


def test_empty_packets_fill_the_bound_too():
    """Datagrams without a byte count for the objects around them."""
    early = EarlyPackets(limit_bytes=3 * OVERHEAD_BYTES)
    assert [early.keep(Side.INPUT, i, _packet(0, 0)) for i in range(4)] == [True, True, True, False]


def test_expired_packets_are_counted_by_side():
    """What nobody claimed in 10 s is given up, counted, and makes room; the rest stays."""
    early = EarlyPackets(limit_bytes=3 * SIZE)
    early.keep(Side.INPUT, 1, _packet(0))
    early.keep(Side.INPUT, 1, _packet(10))
    early.keep(Side.OUTPUT, 2, _packet(0))
    assert early.expire(KEPT_NS) == {Side.INPUT: 0, Side.OUTPUT: 0}
    assert early.expire(KEPT_NS + 1) == {Side.INPUT: 1, Side.OUTPUT: 1}
    assert [early.keep(Side.OUTPUT, 3, _packet(20)) for _ in range(3)] == [True, True, False]
    assert early.claim(Side.INPUT, 1, KEPT_NS + 2) == ([_packet(10)], 0)


steps = st.lists(
    st.tuples(
        st.sampled_from(["keep", "claim", "expire"]), st.sampled_from(Side), st.integers(0, 3), st.integers(0, 300)
    ),
    max_size=60,
)


@given(steps)
def test_no_packet_gets_lost_uncounted(steps):
    """Every packet is refused, handed over, counted as too old, or still kept; and room is given back."""
    early, now, kept, gone = EarlyPackets(limit_bytes=5 * SIZE), 0, 0, 0
    for verb, side, ssrc, size in steps:
        now += size * KEPT_NS // 300
        if verb == "keep":
            kept += early.keep(side, ssrc, _packet(now, size))
        elif verb == "claim":
            young, old = early.claim(side, ssrc, now)
            gone += len(young) + old
        else:
            gone += sum(early.expire(now).values())
    gone += sum(early.expire(now + KEPT_NS + 1).values())
    assert gone == kept
    assert [early.keep(Side.INPUT, 1, _packet(now)) for _ in range(6)] == [True] * 5 + [False]
