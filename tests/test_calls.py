"""Tests of calls: the register of connections, their states, references and SSRCs."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from twotrack.calls import REMEMBERED_CALLS, Register, State
from twotrack.errors import RequestError
from twotrack.messages import check_connection_id
from twotrack.side import Side

NOW = 100.0

WALL = 1_767_268_800.0
NOTHING_MAPPED = {Side.INPUT: {}, Side.OUTPUT: {}}


def _open(register, connection_id="a", input_ssrc=None, output_ssrc=None, metadata=None, now=0.0):
    ssrcs = {Side.INPUT: input_ssrc, Side.OUTPUT: output_ssrc}
    return register.open(connection_id, ssrcs, metadata, now=now, wall_now=WALL + now)


def _ended(register, connection_id, state=State.STORED):
    """Take a call through all of its life."""
    call, _, _ = _open(register, connection_id)
    register.close(connection_id, None)
    register.finalise(call, NOW)
    register.end(call, state, NOW)
    return call


def _refused(code, verb, *arguments, **named):
    with pytest.raises(RequestError) as refused:
        verb(*arguments, **named)
    assert refused.value.code == code
    return refused.value.message


@pytest.fixture
def register():
    return Register(3)


@pytest.mark.parametrize("connection_id", ["a", "a" * 200, "0", "_=@:+~-", "a.b..c", "~2", "-", "a:b@c"])
def test_valid_connection_ids(connection_id):
    """A connection id is 1 to 200 of the named characters."""
    assert check_connection_id(connection_id) == connection_id


@pytest.mark.parametrize(
    "connection_id", ["", ".", "..", ".a", "a" * 201, "a/b", "a b", "a\n", "\na", "é", "a\0", "a\\b", "../a", "٣", "a%"]
)
def test_invalid_connection_ids(register, connection_id):
    """An id that no file may be named after is refused, and leaves nothing behind."""
    _refused("invalid_connection_id", check_connection_id, connection_id)
    _refused("invalid_connection_id", _open, register, connection_id)
    assert list(register) == []


def test_open_maps_the_ssrcs(register):
    """A new call is open, has two references, and its SSRCs lead to it on their own side alone."""
    call, added, is_new = _open(register, "a", 1, 2, {"k": "v"}, now=5.0)
    assert (call.state, call.references, is_new) == (State.OPEN, 2, True)
    assert added == [(Side.INPUT, 1), (Side.OUTPUT, 2)]
    assert register.routes == {Side.INPUT: {1: call}, Side.OUTPUT: {2: call}}
    assert (call.started_at, call.opened_at, call.metadata) == (WALL + 5, 5.0, {"k": "v"})


def test_open_again_changes_nothing(register):
    """The same open twice is one call with one SSRC each."""
    call, _, _ = _open(register, "a", 1, 2)
    assert _open(register, "a", 1, 2, now=9.0) == (call, [], False)
    assert (call.ssrcs, call.opened_at) == ({Side.INPUT: [1], Side.OUTPUT: [2]}, 0.0)


def test_open_again_adds_ssrcs(register):
    """An open call takes further SSRCs on either side, and keeps the old ones."""
    call, _, _ = _open(register, "a", 1)
    assert _open(register, "a", 3, 2) == (call, [(Side.INPUT, 3), (Side.OUTPUT, 2)], False)
    assert call.ssrcs == {Side.INPUT: [1, 3], Side.OUTPUT: [2]}
    assert register.routes == {Side.INPUT: {1: call, 3: call}, Side.OUTPUT: {2: call}}


def test_open_again_joins_metadata(register):
    """Metadata of a later open is added to what is there."""
    call, _, _ = _open(register, "a", metadata={"k": "v", "x": "1"})
    _open(register, "a", metadata={"x": "2", "y": "3"})
    assert call.metadata == {"k": "v", "x": "2", "y": "3"}


def test_metadata_does_not_grow_by_many_opens(register):
    """Metadata that grows over its limit by a second open is refused, and neither it nor an SSRC is taken."""
    call, _, _ = _open(register, "a", metadata={"k": "x" * 10_000})
    _refused("bad_request", _open, register, "a", 5, metadata={"l": "x" * 10_000})
    assert list(call.metadata) == ["k"]
    assert register.routes == NOTHING_MAPPED


def test_the_same_ssrc_on_both_sides(register):
    """An SSRC is of a port: both sides may use the same number, and so may two calls on two sides."""
    first, _, _ = _open(register, "a", 1, 2)
    second, _, _ = _open(register, "b", 2, 1)
    assert register.routes == {Side.INPUT: {1: first, 2: second}, Side.OUTPUT: {2: first, 1: second}}


def test_an_ssrc_in_use_is_refused(register):
    """Another call's SSRC is refused by its owner's name, and nothing of the request is done."""
    first, _, _ = _open(register, "a", 1, 2)
    assert "call a" in _refused("ssrc_in_use", _open, register, "b", 9, 2)
    assert list(register) == [first]
    assert register.routes == {Side.INPUT: {1: first}, Side.OUTPUT: {2: first}}


def test_an_ssrc_in_use_adds_nothing_to_an_open_call(register):
    """A refused second open leaves the call's metadata and SSRCs as they were."""
    _open(register, "a", 1)
    call, _, _ = _open(register, "b", 2, metadata={"k": "v"})
    _refused("ssrc_in_use", _open, register, "b", 1, 3, {"k": "w"})
    assert (call.metadata, call.ssrcs) == ({"k": "v"}, {Side.INPUT: [2], Side.OUTPUT: []})


def test_one_call_too_many_is_refused(register):
    """Beyond the limit a new call is refused; an open one still takes SSRCs, and a closed one makes room."""
    calls = [_open(register, name)[0] for name in "abc"]
    _refused("too_many_connections", _open, register, "d")
    assert _open(register, "a", 7)[1] == [(Side.INPUT, 7)]
    register.close("b", None)
    assert _open(register, "d")[2]
    assert calls[1].state is State.CLOSING


def test_close_takes_each_side_once(register):
    """Closing a side twice takes one reference; the last one begins the closing."""
    call, _, _ = _open(register)
    assert register.close("a", Side.INPUT) == (call, False)
    assert register.close("a", Side.INPUT) == (call, False)
    assert (call.references, call.state) == (1, State.OPEN)
    assert register.close("a", Side.OUTPUT) == (call, True)
    assert (call.references, call.state) == (0, State.CLOSING)
    assert register.close("a", Side.OUTPUT) == (call, False)


def test_close_without_a_side_takes_both(register):
    """A close of no side takes what is left, and says once that it was the last."""
    call, _, _ = _open(register)
    register.close("a", Side.OUTPUT)
    assert register.close("a", None) == (call, True)
    assert register.close("a", None) == (call, False)


def test_an_unknown_call_is_refused(register):
    """A call that was never opened can be neither closed nor shown."""
    _refused("unknown_connection", register.close, "a", None)
    _refused("unknown_connection", register.get, "a")


@pytest.mark.parametrize("is_finalising", [False, True])
def test_a_closing_call_takes_no_open(register, is_finalising):
    """An id that is closing or finalising is already closed."""
    call, _, _ = _open(register, "a", 1)
    register.close("a", None)
    if is_finalising:
        register.finalise(call, NOW)
    assert "open it again" in _refused("already_closed", _open, register, "a", 2)


def test_a_failed_call_takes_no_open(register):
    """An id whose call failed asks for a retry or a discard."""
    _ended(register, "a", State.FAILED)
    assert "retry" in _refused("already_closed", _open, register, "a")


@pytest.mark.parametrize("state", [State.STORED, State.DISCARDED])
def test_an_ended_id_is_a_new_call(register, state):
    """An id that is stored or discarded may be opened anew; the old call is no longer the one meant."""
    old = _ended(register, "a", state)
    assert register.get("a") is old
    new, _, is_new = _open(register, "a")
    assert (is_new, new is old, register.get("a") is new) == (True, False, True)


def test_ssrcs_stay_mapped_through_the_grace(register):
    """Datagrams still find a closing call; they don't once it is finalised."""
    call, _, _ = _open(register, "a", 1, 2)
    register.close("a", None)
    assert register.routes[Side.INPUT] == {1: call}
    register.finalise(call, NOW)
    assert (call.state, register.routes) == (State.FINALISING, NOTHING_MAPPED)


def test_freed_ssrcs_are_not_taken_twice(register):
    """A finalised call that ends later leaves alone the call that took its SSRC over."""
    old, _, _ = _open(register, "a", 1)
    register.close("a", None)
    register.finalise(old, NOW)
    new, _, _ = _open(register, "b", 1)
    register.end(old, State.STORED, NOW)
    assert register.routes[Side.INPUT] == {1: new}


def test_a_failed_call_is_kept_for_a_retry(register):
    """A failed call is listed as such, does not count as open, and can be finalised again."""
    call = _ended(register, "a", State.FAILED)
    assert (register.failed(), register.live()) == ([call], [])
    register.finalise(call, NOW)
    assert (register.failed(), register.live(), call.state) == ([], [call], State.FINALISING)
    register.end(call, State.STORED, NOW)
    assert (register.failed(), register.live(), register.get("a")) == ([], [], call)


def test_only_so_many_ended_calls_are_remembered(register):
    """The oldest ended calls are forgotten, so that memory does not grow."""
    for number in range(REMEMBERED_CALLS + 2):
        _ended(register, str(number))
    _refused("unknown_connection", register.get, "1")
    assert register.get("2").state is State.STORED
    assert len(list(register)) == REMEMBERED_CALLS


def test_silent_calls_are_abandoned(register):
    """An open call is abandoned once it was silent for longer than the retention, not before."""
    call, _, _ = _open(register, "a", now=100.0)
    assert register.abandon(now=160.0, retention=60.0) == []
    assert register.abandon(now=160.1, retention=60.0) == [call]
    assert (call.state, call.is_abandoned, call.references) == (State.CLOSING, True, 0)
    assert register.abandon(now=999.0, retention=60.0) == []


def test_a_packet_is_a_sign_of_life(register):
    """The last packet of either side puts the abandoning off."""
    call, _, _ = _open(register)
    call.last_arrival[Side.OUTPUT] = 50.0
    call.last_arrival[Side.INPUT] = 10.0
    assert register.abandon(now=100.0, retention=60.0) == []
    assert register.abandon(now=111.0, retention=60.0) == [call]


def test_closing_calls_are_not_abandoned(register):
    """A call that is closed already is left alone."""
    _open(register)
    register.close("a", None)
    assert register.abandon(now=1e6, retention=1.0) == []


def test_a_restored_call_goes_on(register):
    """A call from before a restart has its SSRCs and its place in the register again."""
    call, _, _ = _open(Register(1), "a", 1, 2)
    register.restore(call)
    assert register.get("a") is call
    assert register.routes == {Side.INPUT: {1: call}, Side.OUTPUT: {2: call}}
    assert call.ssrcs == {Side.INPUT: [1], Side.OUTPUT: [2]}


def test_calls_are_counted_by_state(register):
    """The count has the states that there are, and no others."""
    assert register.count_by_state() == {}
    _ended(register, "a")
    _ended(register, "b", State.FAILED)
    _open(register, "c")
    assert register.count_by_state() == {State.OPEN: 1, State.STORED: 1, State.FAILED: 1}


class RegisterMachine(RuleBasedStateMachine):
    """Any order of verbs on few ids and SSRCs; what must hold after each is in the invariants."""

    ids = st.sampled_from("abc")
    ssrcs = st.none() | st.integers(1, 3)

    def __init__(self):
        super().__init__()
        self.register = Register(2)
        self.now = 0.0

    @rule(connection_id=ids, input_ssrc=ssrcs, output_ssrc=ssrcs)
    def open(self, connection_id, input_ssrc, output_ssrc):
        self.now += 1
        try:
            call, added, _ = _open(self.register, connection_id, input_ssrc, output_ssrc, now=self.now)
        except RequestError as error:
            assert error.code in {"already_closed", "ssrc_in_use", "too_many_connections"}  # noqa: PT017
            return
        assert call.state is State.OPEN
        assert all(self.register.routes[side][ssrc] is call for side, ssrc in added)

    @rule(connection_id=ids, side=st.none() | st.sampled_from(Side))
    def close(self, connection_id, side):
        try:
            before = self.register.get(connection_id).references
        except RequestError:
            return
        call, is_last = self.register.close(connection_id, side)
        assert is_last == (before > 0 and call.references == 0)

    @rule(connection_id=ids, state=st.sampled_from([State.STORED, State.FAILED]))
    def finalise_and_end(self, connection_id, state):
        call = self.register.find_unfinished(connection_id)
        if call is None or call.state not in {State.CLOSING, State.FAILED}:
            return
        self.register.finalise(call, NOW)
        assert call.state is State.FINALISING
        self.register.end(call, state, NOW)
        assert self.register.get(connection_id) is call

    @rule(connection_id=ids)
    def discard(self, connection_id):
        call = self.register.find_unfinished(connection_id)
        if call is not None:
            self.register.end(call, State.DISCARDED, NOW)

    @rule(silence=st.integers(0, 5))
    def abandon(self, silence):
        self.now += silence
        assert all(call.references == 0 for call in self.register.abandon(self.now, 3.0))

    @invariant()
    def routes_lead_to_calls_that_name_them(self):
        for side in Side:
            for ssrc, call in self.register.routes[side].items():
                assert ssrc in call.ssrcs[side]
                assert call.state in {State.OPEN, State.CLOSING}

    @invariant()
    def every_ssrc_of_an_open_call_leads_to_it(self):
        for call in self.register.live():
            for side in Side:
                assert len(set(call.ssrcs[side])) == len(call.ssrcs[side])
                if call.state is State.OPEN:
                    assert all(self.register.routes[side][ssrc] is call for ssrc in call.ssrcs[side])

    @invariant()
    def states_and_references_agree(self):
        assert all((call.references > 0) == (call.state is State.OPEN) for call in self.register.live())
        assert len([call for call in self.register.live() if call.state is State.OPEN]) <= 2

    @invariant()
    def each_call_is_counted_once(self):
        assert sum(self.register.count_by_state().values()) == len(set(self.register))


TestRegister = RegisterMachine.TestCase
TestRegister.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
