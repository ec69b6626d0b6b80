"""Tests of timeline: where packets lie, whatever the network and the sender did on the way."""

import random
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from twotrack.opus import MAX_PACKET_SAMPLES
from twotrack.side import Side
from twotrack.sources import RESTART_PACKETS, Observation
from twotrack.timeline import MILLISECOND, Placed, place

FRAME = 960
SECOND = 48_000
BOTH_SIDES = pytest.mark.parametrize("side", list(Side))


def _stream(count, *, start=0, delays=None, ssrc=1, sequence=0, timestamp=0, duration=FRAME, clock_rate=SECOND):
    """A sender in real time from `start`, each packet delayed by its own delay."""
    delays = delays or [0] * count
    step = duration * clock_rate // SECOND
    return [
        Observation(
            start + i * duration + delays[i],
            ssrc,
            (sequence + i) & 0xFFFF,
            (timestamp + i * step) & 0xFFFF_FFFF,
            duration,
            clock_rate,
        )
        for i in range(count)
    ]


def _arrive(observations):
    return sorted(observations, key=lambda observation: observation.arrival)


def _near(positions):
    """Within a millisecond: what following a clock's drift may cost a stream without drift."""
    return pytest.approx(positions, abs=MILLISECOND)


def _positions(observations, side):
    return [placed.position for placed in place(observations, side).packets]


def _steady(count, start=0, duration=FRAME):
    return [start + i * duration for i in range(count)]


@BOTH_SIDES
def test_nothing_to_place(side):
    """A side without packets has neither places nor runs."""
    placement = place([], side)
    assert (placement.packets, placement.run_starts) == ([], [])


@BOTH_SIDES
@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF_FFFF), st.integers(-(10**12), 10**12))
@example(65_500, 0, 0)
@example(0, 0xFFFF_FFFF - 20 * FRAME, 0)
def test_wraps_move_nothing(side, sequence, timestamp, start):
    """A stream lies where it was sent, wherever its sequence number and timestamp begin and wrap."""
    placement = place(_stream(100, start=start, sequence=sequence, timestamp=timestamp), side)
    assert placement.packets == [Placed(i, start + i * FRAME, 0) for i in range(100)]
    assert placement.run_starts == [start]


def test_a_long_call_is_not_moved():
    """Over more than one round of the sequence number, the last packet still lies where it was sent."""
    observations = _stream(70_000, sequence=40_000, timestamp=0xF000_0000)
    assert _positions(observations, Side.INPUT) == _steady(70_000)


@BOTH_SIDES
@given(st.integers(-(10**13), 10**13), st.lists(st.integers(0, FRAME), min_size=1, max_size=80))
def test_a_shift_of_all_arrivals_shifts_all_places(side, shift, delays):
    """Places are relative to the arrivals: the same stream later lies later, and nothing else changes."""
    observations = _stream(len(delays), delays=delays)
    shifted = [observation._replace(arrival=observation.arrival + shift) for observation in observations]
    expected = [position + shift for position in _positions(observations, side)]
    assert _positions(shifted, side) == pytest.approx(expected, rel=0, abs=1)


@BOTH_SIDES
@given(st.randoms(use_true_random=False), st.integers(2, 8))
def test_reordering_moves_nothing(side, chance, distance):
    """Packets that overtake each other find their places by sequence number."""
    delays = [0, *(chance.choice([0, distance * FRAME]) for _ in range(98)), 0]
    placement = place(_arrive(_stream(100, delays=delays, sequence=65_500)), side)
    assert [placed.position for placed in placement.packets] == _steady(100)
    assert not any(placed.missing for placed in placement.packets)


def test_a_first_packet_that_comes_second_keeps_its_place():
    """The first packet of an input may be overtaken too."""
    observations = _stream(50, delays=[FRAME + 10, *[0] * 49])
    assert _positions(_arrive(observations), Side.INPUT) == _near(_steady(50))


@BOTH_SIDES
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 20)), max_size=30))
def test_duplicates_are_left_out(side, copies):
    """Each packet is placed once, where its first copy belongs."""
    observations = _stream(100)
    late = [observations[i]._replace(arrival=observations[i].arrival + n * FRAME) for i, n in copies]
    placement = place(_arrive(observations + late), side)
    assert [placed.position for placed in placement.packets] == _steady(100)
    assert placement.run_starts == [0]


@BOTH_SIDES
@given(st.lists(st.integers(0, 20 * MILLISECOND), min_size=1, max_size=200))
def test_jitter_places_on_the_lower_envelope(side, delays):
    """Under jitter no packet lies before it was sent, and none later than the first or the least delayed one."""
    sent, positions = _steady(len(delays)), _positions(_stream(len(delays), delays=delays), side)
    highest = (min(delays) if side is Side.INPUT else max(delays)) + MILLISECOND
    assert all(0 <= position - at <= highest for position, at in zip(positions, sent, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_heavy_jitter_stays_near_the_sender(seed):
    """Jitter of 30 ms on average leaves the input within 10 ms of where it was sent."""
    chance = random.Random(seed)
    delays = [round(chance.gammavariate(2, 15) * MILLISECOND) for _ in range(500)]
    positions = _positions(_arrive(_stream(500, delays=delays)), Side.INPUT)
    assert max(abs(position - sent) for position, sent in zip(positions, _steady(500), strict=True)) <= 10 * MILLISECOND


@BOTH_SIDES
@pytest.mark.parametrize("stall_ms", [100, 500, 1000, 3000])
def test_a_stall_that_comes_back_moves_nothing(side, stall_ms):
    """Packets held up by the network and then delivered at once keep their places."""
    stall, first = stall_ms * MILLISECOND, 100
    delays = [max(0, stall - (i - first) * FRAME) if i >= first else 0 for i in range(400)]
    placement = place(_stream(400, delays=delays), side)
    assert [placed.position for placed in placement.packets] == _steady(400)
    assert placement.run_starts == [0]


def test_a_stall_at_the_start_moves_no_input():
    """An input whose first second arrives late and at once lies where its later packets say."""
    delays = [max(0, SECOND - i * FRAME) for i in range(200)]
    assert _positions(_stream(200, delays=delays), Side.INPUT) == pytest.approx(_steady(200), abs=2 * MILLISECOND)


@BOTH_SIDES
@pytest.mark.parametrize("pause_ms", [100, 400, 3000, 60_000])
def test_a_pause_without_timestamps_is_a_new_run(side, pause_ms):
    """A sender that paused and went on with the next timestamp is placed anew where it arrived."""
    pause = pause_ms * MILLISECOND
    observations = _stream(400, delays=[0] * 100 + [pause] * 300)
    placement = place(observations, side)
    assert placement.run_starts == [0, 100 * FRAME + pause]
    assert [placed.position for placed in placement.packets] == _steady(100) + _steady(300, 100 * FRAME + pause)


@BOTH_SIDES
@given(st.lists(st.integers(150, 5000), min_size=1, max_size=4))
def test_every_pause_is_a_new_run(side, pauses_ms):
    """Each of several pauses, as between the turns of a conversation, begins a run at its arrival."""
    delays, delay = [0] * 100, 0
    for pause_ms in pauses_ms:
        delay += pause_ms * MILLISECOND
        delays += [delay] * 100
    positions = _positions(_stream(len(delays), delays=delays), side)
    assert positions == [i * FRAME + delay for i, delay in enumerate(delays)]


@BOTH_SIDES
def test_dtx_is_no_pause(side):
    """A gap of the timestamp that arrival shares stays a gap of a single run, and is no loss."""
    before, after = _stream(50), _stream(50, start=150 * FRAME, sequence=50, timestamp=150 * FRAME)
    placement = place(before + after, side)
    assert placement.run_starts == [0]
    assert placement.packets[50] == Placed(50, 150 * FRAME, 0)


@BOTH_SIDES
@pytest.mark.parametrize("lost", [1, 5, 50, 900])
def test_loss_leaves_a_gap(side, lost):
    """Packets after a loss keep their places, and the first of them knows how many are missing."""
    observations = _stream(1200)
    placement = place(observations[:100] + observations[100 + lost :], side)
    assert [placed.position for placed in placement.packets] == _steady(100) + _steady(
        1100 - lost, (100 + lost) * FRAME
    )
    assert [placed.missing for placed in placement.packets] == [0] * 100 + [lost] + [0] * (1099 - lost)


@BOTH_SIDES
def test_a_changed_ssrc_lies_at_its_arrival(side):
    """Another SSRC with other numbers is a new run where it arrived."""
    after = _stream(100, start=105 * FRAME, ssrc=2, sequence=7_000, timestamp=0xDEAD_BEEF)
    placement = place(_stream(100) + after, side)
    assert placement.run_starts == [0, 105 * FRAME]
    assert [placed.position for placed in placement.packets] == _steady(100) + _steady(100, 105 * FRAME)


@BOTH_SIDES
def test_an_overlapping_ssrc_begins_where_the_old_one_ends(side):
    """A new SSRC whose first packet arrived before the old one's end does not overlap it."""
    after = _stream(100, start=100 * FRAME - 300, ssrc=2)
    assert _positions(_stream(100) + after, side) == _steady(200)


@BOTH_SIDES
def test_going_back_to_an_ssrc_moves_nothing(side):
    """A side that changes its SSRC and changes back keeps all three stretches where they arrived."""
    observations = _stream(150)
    between = _stream(50, start=50 * FRAME, ssrc=2, timestamp=77)
    placement = place(observations[:50] + between + observations[100:], side)
    assert sorted(placed.position for placed in placement.packets) == _steady(150)


@BOTH_SIDES
@pytest.mark.parametrize("jump", [1 << 30, (1 << 32) - (1 << 30), 60 * SECOND])
def test_a_jump_of_the_timestamp_moves_nothing(side, jump):
    """A timestamp that jumps, forwards or backwards, while packets arrive steadily begins a run at its arrival."""
    before, after = _stream(100), _stream(100, start=100 * FRAME, sequence=100, timestamp=jump + 100 * FRAME)
    placement = place(before + after, side)
    assert [placed.position for placed in placement.packets] == _steady(200)
    assert placement.run_starts == [0, 100 * FRAME]


@BOTH_SIDES
@pytest.mark.parametrize("sequence", [5_000, 40_000])
def test_a_restart_of_the_sequence_moves_nothing(side, sequence):
    """A sender that begins anew with other numbers and the same SSRC lies at its arrival."""
    after = _stream(100, start=130 * FRAME, sequence=sequence, timestamp=123_456)
    assert _positions(_stream(100) + after, side) == _steady(100) + _steady(100, 130 * FRAME)


@pytest.mark.parametrize("start", [0, 12_345])
def test_a_burst_of_the_output_begins_at_its_first_arrival(start):
    """An answer sent four times faster than real time lies end to end from its first packet's arrival."""
    observations = _stream(400, start=start, delays=[-i * FRAME * 3 // 4 for i in range(400)])
    placement = place(observations, Side.OUTPUT)
    assert [placed.position for placed in placement.packets] == _near(_steady(400, start))
    assert placement.run_starts == [start]


def test_a_burst_of_the_output_after_a_pause_begins_at_its_first_arrival():
    """Each of two answers sent at once lies end to end from its own first packet's arrival."""
    answers = _stream(200, delays=[-i * FRAME * 3 // 4 for i in range(200)])
    later = [one._replace(arrival=one.arrival + 10 * SECOND) for one in answers]
    later = [one._replace(sequence_number=200 + i, timestamp=(200 + i) * FRAME) for i, one in enumerate(later)]
    assert _positions(answers + later, Side.OUTPUT) == _near(_steady(200) + _steady(200, 10 * SECOND))


def test_a_burst_of_the_input_ends_where_its_baseline_is():
    """An input that catches up lies where the end of the burst says."""
    observations = _stream(100, delays=[75 * FRAME - i * FRAME * 3 // 4 for i in range(100)])
    assert _positions(observations, Side.INPUT) == _near(_steady(100, 75 * FRAME - 99 * 720))


@BOTH_SIDES
@pytest.mark.parametrize("duration", [120, 480, 1920, 2880, 5760])
def test_every_packet_duration(side, duration):
    """Packets of 2.5 to 120 ms lie end to end."""
    assert _positions(_stream(100, duration=duration), side) == _steady(100, duration=duration)


@BOTH_SIDES
@given(st.integers(0, 0xFFFF_FFFF))
@example(0xFFFF_FFFF - 1000)
def test_clock_rate_of_8_khz(side, timestamp):
    """G.711 counts at 8 kHz, and its wrap moves nothing either."""
    observations = _stream(100, timestamp=timestamp, clock_rate=8000)
    assert _positions(observations, side) == _steady(100)


@BOTH_SIDES
@pytest.mark.parametrize("ppm", [-300, -50, 0, 50, 300])
def test_drift_is_measured(side, ppm):
    """A sender's clock that runs fast or slow for minutes is measured, under jitter, within 10 ppm."""
    chance = random.Random(ppm)
    delays = [round(-i * FRAME * ppm / 1e6) + chance.randint(0, 5 * MILLISECOND) for i in range(6000)]
    placement = place(_arrive(_stream(6000, delays=delays)), side)
    assert placement.drift_ppm == pytest.approx(ppm, abs=10)


@pytest.mark.parametrize("count", [1, 500])
def test_drift_of_a_short_run_is_not_told(count):
    """Ten seconds say nothing of drift."""
    delays = [-i for i in range(count)]
    assert place(_stream(count, delays=delays), Side.INPUT).drift_ppm == 0


numbers = st.integers(0, 0xFFFF)
any_observation = st.builds(
    Observation,
    arrival=st.integers(0, 20 * SECOND),
    ssrc=st.integers(1, 3),
    sequence_number=st.integers(0, 30) | numbers,
    timestamp=st.integers(0, 30).map(lambda n: n * FRAME) | st.integers(0, 0xFFFF_FFFF),
    duration=st.sampled_from([120, 960, 2880]),
    clock_rate=st.sampled_from([8000, 48_000]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(any_observation, max_size=30), st.sampled_from(Side))
def test_any_packets_have_places(observations, side):
    """Whatever arrives, each packet has at most one place, and the places are in order."""
    placement = place(_arrive(observations), side)
    indexes = [placed.observation for placed in placement.packets]
    assert len(set(indexes)) == len(indexes)
    assert set(indexes) <= set(range(len(observations)))
    positions = [placed.position for placed in placement.packets]
    assert positions == sorted(positions)
    assert set(placement.run_starts) <= set(positions)


@BOTH_SIDES
@pytest.mark.parametrize("timestamp", [0, (1 << 30) - 3600 * SECOND, (1 << 30) - 30 * SECOND])
def test_a_late_packet_with_a_wild_timestamp_makes_no_silence(side, timestamp):
    """A reordered packet whose timestamp is far behind its neighbours does not make the call longer."""
    observations = _stream(100, timestamp=1 << 30)
    late = observations[50]._replace(arrival=observations[52].arrival, timestamp=timestamp)
    positions = _positions(_arrive([*observations[:50], *observations[51:], late]), side)
    assert max(positions) - min(positions) <= 110 * FRAME


@settings(max_examples=300)
@given(st.lists(any_observation, min_size=1, max_size=20), st.sampled_from(Side))
def test_no_packets_stretch_the_call(observations, side):
    """Whatever arrives, the side is no longer than its arrivals and what can have been lost before each packet."""
    positions = _positions(_arrive(observations), side)
    arrivals = [observation.arrival for observation in observations]
    most_lost = RESTART_PACKETS * MAX_PACKET_SAMPLES + SECOND
    assert max(positions) - min(positions) <= max(arrivals) - min(arrivals) + len(observations) * most_lost


senders = st.lists(
    st.tuples(st.integers(1, 60), st.integers(-20_000, 200_000), st.integers(1, 3), st.integers(0, 960)),
    min_size=1,
    max_size=6,
)


@given(senders, st.sampled_from(Side))
def test_runs_never_overlap(stretches, side):
    """Of senders one after another, pausing, overlapping or restarting, no packet lies over another."""
    observations, now, numbers = [], 0, random.Random(1)
    for count, gap, ssrc, jitter in stretches:
        now = max(0, now + gap)
        delays = [numbers.randint(0, jitter) for _ in range(count)]
        sequence, timestamp = numbers.randrange(1 << 16), numbers.randrange(1 << 32)
        observations += _stream(count, start=now, delays=delays, ssrc=ssrc, sequence=sequence, timestamp=timestamp)
        now += count * FRAME
    placement = place(_arrive(observations), side)
    assume(len(placement.packets) == len(observations))
    for before, after in pairwise(placed.position for placed in placement.packets):
        drift = 0 if after in placement.run_starts else 2  # in one packet, rounding included
        assert before + FRAME <= after + drift
