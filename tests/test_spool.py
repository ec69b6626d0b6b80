"""Tests of spool and recovery: packets on disk as dpkt reads them, and calls that outlive the process."""

import json
import resource
from collections import Counter
from contextlib import contextmanager

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packets import opus_tone, rtp_stream
from twotrack import recovery
from twotrack.calls import Call, State
from twotrack.capture import read_spool
from twotrack.errors import SpoolError
from twotrack.pcap import SpoolPorts
from twotrack.side import Side
from twotrack.spool import MAX_FLOWS, Recovered, Spool, SpoolDrop, recover

PORTS = SpoolPorts(5004, 5006)
SOURCE = ("127.0.0.1", 40_000)
ANCHOR_NS = 1_767_268_800_000_000_000
RTP = rtp_stream(opus_tone(300, 20))
MEBIBYTE = 1024 * 1024


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool", "127.0.0.1")
    yield spool
    spool.close()


def _append(file, datagrams, side=Side.INPUT, first_ns=0):
    return [file.append(side, first_ns + i * 20_000_000, SOURCE, datagram) for i, datagram in enumerate(datagrams)]


def _read(path):
    """Destination port, arrival and payload of each record, by an independent reader."""
    with path.open("rb") as file:
        records = [(round(stamp * 10**9), dpkt.ip.IP(frame)) for stamp, frame in dpkt.pcap.Reader(file)]
    return [(packet.data.dport, arrival_ns, packet.data.data) for arrival_ns, packet in records]


@contextmanager
def _file_size_limit(size):
    """A disk that is full after so many bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def _flush(spool):
    spool.flush()
    await spool.written()


async def test_packets_are_on_disk_after_a_flush(spool):
    """What was appended is in the file after a flush, each packet at its wall time on its side's port."""
    file = spool.create("a", PORTS, ANCHOR_NS)
    _append(file, RTP[:3])
    _append(file, RTP[3:5], Side.OUTPUT, 7)
    await _flush(spool)
    inputs = [(5004, ANCHOR_NS + i * 20_000_000, RTP[i]) for i in range(3)]
    outputs = [(5006, ANCHOR_NS + 7 + i * 20_000_000, RTP[3 + i]) for i in range(2)]
    assert _read(spool.path("a")) == inputs + outputs
    assert file.written_bytes == spool.path("a").stat().st_size
    assert spool.waiting_bytes == 0


async def test_a_new_call_has_its_file_at_once(spool):
    """Before its first packet a call's spool is there, and names its ports."""
    spool.create("a", PORTS, ANCHOR_NS)
    await spool.written()
    assert recover(spool.path("a")) == Recovered(PORTS, Counter(), {})


async def test_many_flushes_are_one_file(spool):
    """A call flushed after every packet is read like one flushed once."""
    file = spool.create("a", PORTS, ANCHOR_NS)
    for i, datagram in enumerate(RTP):
        file.append(Side.INPUT, i, SOURCE, datagram)
        await _flush(spool)
    assert [payload for _, _, payload in _read(spool.path("a"))] == RTP


async def test_calls_are_apart(spool):
    """Packets of calls at once lie in their own files."""
    files = {name: spool.create(name, PORTS, ANCHOR_NS) for name in "abc"}
    for i, datagram in enumerate(RTP):
        files["abc"[i % 3]].append(Side.INPUT, i, SOURCE, datagram)
    await _flush(spool)
    for i, name in enumerate("abc"):
        assert [payload for _, _, payload in _read(spool.path(name))] == RTP[i::3]


async def test_any_number_of_senders(spool):
    """Senders of more addresses than are kept ready are each written with their own."""
    file = spool.create("a", PORTS, ANCHOR_NS)
    sources = [("10.0.0.1", port) for port in range(1, 2 * MAX_FLOWS)] + [("2001:db8::1", 9), SOURCE]
    for source in sources:
        file.append(Side.INPUT, 0, source, b"x")
    await _flush(spool)
    assert len(read_spool(spool.path("a")).dropped[Side.INPUT]) == 1
    assert recover(spool.path("a")).received[Side.INPUT] == len(sources)


def test_closing_writes_what_waits(tmp_path):
    """Nothing that was appended before the spool is closed is lost."""
    spool = Spool(tmp_path, "127.0.0.1")
    _append(spool.create("a", PORTS, ANCHOR_NS), RTP)
    spool.close()
    assert [payload for _, _, payload in _read(tmp_path / "a.pcap")] == RTP


async def test_what_waits_is_bounded(tmp_path):
    """Beyond the bound packets are dropped and counted by side; once the disk has taken it, they are kept again."""
    spool = Spool(tmp_path, "127.0.0.1", queue_limit_bytes=100)
    file = spool.create("a", PORTS, ANCHOR_NS)
    assert _append(file, [bytes(100)] * 3) == [True, False, False]
    assert _append(file, [bytes(100)], Side.OUTPUT) == [False]
    assert spool.dropped[Side.INPUT][SpoolDrop.QUEUE_FULL] == 2
    assert spool.dropped[Side.OUTPUT][SpoolDrop.QUEUE_FULL] == 1
    await _flush(spool)
    assert _append(file, [b"x"]) == [True]
    spool.close()
    assert [payload for _, _, payload in _read(tmp_path / "a.pcap")] == [bytes(100), b"x"]


async def test_what_cannot_be_written_is_counted(spool):
    """Packets that the disk refuses are counted by side, and later ones are kept in a whole file."""
    spool.path("a").mkdir()
    file = spool.create("a", PORTS, ANCHOR_NS)
    _append(file, RTP[:3])
    _append(file, RTP[:2], Side.OUTPUT)
    await _flush(spool)
    assert spool.dropped[Side.INPUT][SpoolDrop.WRITE_FAILED] == 3
    assert spool.dropped[Side.OUTPUT][SpoolDrop.WRITE_FAILED] == 2
    spool.path("a").rmdir()
    _append(file, RTP[3:5])
    await _flush(spool)
    assert [payload for _, _, payload in _read(spool.path("a"))] == RTP[3:5]
    assert spool.waiting_bytes == 0


async def test_a_full_disk_leaves_whole_records(spool):
    """A write that the disk takes only in part is cut off whole and counted; the file goes on when there is room."""
    file = spool.create("a", PORTS, ANCHOR_NS)
    _append(file, RTP[:2])
    await _flush(spool)
    with _file_size_limit(MEBIBYTE):
        _append(file, [bytes(60_000)] * 20)
        await _flush(spool)
    assert spool.dropped[Side.INPUT][SpoolDrop.WRITE_FAILED] == 20
    assert [payload for _, _, payload in _read(spool.path("a"))] == RTP[:2]
    _append(file, RTP[2:4])
    await _flush(spool)
    assert [payload for _, _, payload in _read(spool.path("a"))] == RTP[:4]


async def test_one_calls_fault_harms_no_other(spool):
    """A call whose file can't be written leaves the others alone."""
    spool.path("a").mkdir()
    files = [spool.create(name, PORTS, ANCHOR_NS) for name in "ab"]
    for file in files:
        _append(file, RTP)
    await _flush(spool)
    assert len(_read(spool.path("b"))) == len(RTP)


async def test_state_is_saved_beside_the_packets(spool):
    """What is known of a call is read back, the last word of several, and calls come in the order of their names."""
    for name in "ba":
        spool.create(name, PORTS, ANCHOR_NS)
        spool.save_state(name, {"state": "old"})
        spool.save_state(name, {"state": "open", "metadata": {"k": "é😀"}})
    await spool.written()
    state = {"state": "open", "metadata": {"k": "é😀"}}
    assert list(spool.saved_states()) == [("a", state), ("b", state)]
    assert sorted(path.name for path in spool.directory.iterdir()) == ["a.json", "a.pcap", "b.json", "b.pcap"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"7", b"\xff\xfe", None])
async def test_damaged_state_is_none(spool, damage):
    """A call whose state is missing or damaged is still found, with nothing known of it."""
    spool.create("a", PORTS, ANCHOR_NS)
    await spool.written()
    if damage is not None:
        (spool.directory / "a.json").write_bytes(damage)
    assert list(spool.saved_states()) == [("a", None)]


async def test_delete_removes_all_of_a_call(spool):
    """A deleted call leaves no file, not even of what waited to be written; others stay."""
    _append(spool.create("b", PORTS, ANCHOR_NS), RTP)
    file = spool.create("a", PORTS, ANCHOR_NS)
    spool.save_state("a", {"state": "open"})
    _append(file, RTP)
    spool.delete("a")
    spool.delete("a")
    await spool.written()
    assert [path.name for path in spool.directory.iterdir()] == ["b.pcap"]


@pytest.mark.parametrize("below", ["", "below"])
def test_a_directory_that_cannot_be_made(tmp_path, below):
    """A file where the spool should be is refused at the start."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolError, match="can't be made"):
        Spool(tmp_path / "file" / below, "127.0.0.1")


def _spool_of(path, count):
    spool = Spool(path, "127.0.0.1")
    file = spool.create("a", PORTS, ANCHOR_NS)
    _append(file, RTP[:count])
    _append(file, RTP[:1], Side.OUTPUT, 5)
    spool.close()
    return path / "a.pcap"


@pytest.mark.parametrize("torn", [0, 1, 15, 16, 50])
def test_recovery_cuts_the_torn_tail(tmp_path, torn):
    """After a kill, a record that was half written is cut off, and the others are counted by side."""
    path = _spool_of(tmp_path, 10)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[24 : 24 + torn])
    recovered = recover(path)
    assert (recovered.ports, recovered.received) == (PORTS, {Side.INPUT: 10, Side.OUTPUT: 1})
    assert recovered.last_arrival_ns == {Side.INPUT: ANCHOR_NS + 180_000_000, Side.OUTPUT: ANCHOR_NS + 5}
    assert path.read_bytes() == whole


def test_a_recovered_call_goes_on(tmp_path):
    """After a restart packets are appended to the same spool, and all are read."""
    path = _spool_of(tmp_path, 5)
    path.write_bytes(path.read_bytes()[:-3])
    recovered = recover(path)
    spool = Spool(tmp_path, "127.0.0.1")
    _append(spool.reopen("a", recovered.ports, ANCHOR_NS), RTP[5:10], first_ns=100_000_000)
    spool.close()
    assert read_spool(path).datagrams == {Side.INPUT: RTP[:10], Side.OUTPUT: []}


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"x" * 100, bytes.fromhex("d4c3b2a1") + bytes(100)])
def test_another_file_is_no_spool(tmp_path, content):
    """A file that is no spool is refused, and left as it is."""
    path = tmp_path / "a.pcap"
    path.write_bytes(content)
    with pytest.raises(SpoolError, match="is not a spool"):
        recover(path)
    assert path.read_bytes() == content


def test_a_missing_spool_is_refused(tmp_path):
    """A spool that is not there is a SpoolError."""
    with pytest.raises(SpoolError, match="can't be read"):
        recover(tmp_path / "a.pcap")


calls = st.builds(
    Call,
    connection_id=st.just("a"),
    started_at=st.floats(0, 4e9),
    opened_at=st.floats(0, 1e6),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    ssrcs=st.fixed_dictionaries({side: st.lists(st.integers(0, 2**32 - 1), max_size=3) for side in Side}),
    closed_sides=st.sampled_from([set(), {Side.INPUT}, {Side.OUTPUT}]),
)
NOTHING = Recovered(PORTS, Counter(), {})


def _restored(state, recovered=NOTHING):
    return recovery.restored("a", state, recovered, now=50.0, anchor_ns=ANCHOR_NS)


@given(calls)
def test_an_open_call_is_restored(call):
    """An open call, as the JSON beside its spool, comes back with all that a client told of it."""
    again = _restored(json.loads(json.dumps(recovery.saved(call))))
    for name in ("connection_id", "state", "started_at", "metadata", "ssrcs", "closed_sides", "is_abandoned"):
        assert getattr(again, name) == getattr(call, name)
    assert (again.references, again.opened_at) == (call.references, 50.0)


@pytest.mark.parametrize("state", [State.CLOSING, State.FINALISING, State.FAILED])
@pytest.mark.parametrize("is_abandoned", [False, True])
def test_a_closed_call_is_closed_again(state, is_abandoned):
    """A call that was not stored before the restart is closed, so that it will be, with its abandonment kept."""
    call = Call("a", 1.0, 2.0, {"k": "v"}, state, is_abandoned, closed_sides=set(Side))
    again = _restored(json.loads(json.dumps(recovery.saved(call))))
    assert (again.state, again.references, again.is_abandoned) == (State.CLOSING, 0, is_abandoned)
    assert again.metadata == {"k": "v"}


def test_a_call_of_which_nothing_is_known_is_abandoned():
    """A spool without its state is closed as abandoned, begun now as far as anyone knows."""
    call = _restored(None)
    assert (call.state, call.is_abandoned, call.references) == (State.CLOSING, True, 0)
    assert call.started_at == pytest.approx(ANCHOR_NS / 1e9 + 50)


def test_arrivals_are_monotonic_again():
    """What the spool says of arrivals at wall time is put on this process's clock."""
    recovered = Recovered(PORTS, Counter({Side.INPUT: 3}), {Side.INPUT: ANCHOR_NS + 40_000_000_000})
    call = _restored({"state": "open"}, recovered)
    assert call.received == {Side.INPUT: 3}
    assert call.last_arrival == {Side.INPUT: pytest.approx(40.0)}
    assert call.last_sign_of_life == 50.0
