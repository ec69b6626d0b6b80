"""The daemon from outside: real sockets, real time, the real FFmpeg."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from daemons import Daemon
from packets import (
    FRAME_SAMPLES,
    INPUT_SSRC,
    OUTPUT_SSRC,
    encode,
    opus_speech,
    opus_tone,
    rtp_packet,
    rtp_stream,
    tone,
)
from packets import decode as decode_packets
from sound import bursts, decode, duration_s, peak_between, probe
from twotrack import oggopus
from twotrack.errors import RequestError
from twotrack.playback import Scheduled, play
from twotrack.side import Side

RATE = 48_000
FRAME_S = FRAME_SAMPLES / RATE
BURST_S = 0.1
SSRCS = {"input_ssrc": INPUT_SSRC, "output_ssrc": OUTPUT_SSRC}
StartDaemon = Callable[..., Daemon]


def beeps(frequency: float, begins_s: list[float], length_s: float) -> list[bytes]:
    """Opus packets of silence with a beep of 100 ms at each of the given times."""
    pcm = array("h", bytes(2 * int(length_s * RATE)))
    beep = tone(frequency, int(BURST_S * RATE))
    for begin in begins_s:
        start = int(begin * RATE)
        pcm[start : start + len(beep)] = beep
    return encode(pcm)


def scheduled(side: Side, packets: list[bytes], ssrc: int, delay_s: float = 0.0) -> list[Scheduled]:
    """Packets sent in real time, the first after `delay_s`."""
    return [
        Scheduled(delay_s + number * FRAME_S, side, datagram)
        for number, datagram in enumerate(rtp_stream(packets, ssrc=ssrc))
    ]


def mirror(daemon: Daemon, *schedules: list[Scheduled]) -> None:
    """Send all of it to the daemon in real time."""
    schedule = sorted(chain.from_iterable(schedules), key=lambda packet: packet.due_s)
    addresses = {Side.INPUT: daemon.input_address, Side.OUTPUT: daemon.output_address}
    play(schedule, addresses, on_progress=lambda *_: None)


def merged(daemon: Daemon, connection_id: str) -> Path:
    """Where a call's stereo file lies."""
    return daemon.recordings / f"conversation_{connection_id}_merged.opus"


def assert_spool_is_empty(daemon: Daemon) -> None:
    """Nothing of any call is left in the spool or in between."""
    assert list(daemon.spool.iterdir()) == []
    assert list((daemon.state_path / "work").iterdir()) == []


def test_ten_second_call_lies_in_its_place(daemon: Daemon) -> None:
    """A call mirrored in real time is stored whole: all packets, the right length, each sound in its place."""
    caller_begins, ai_begins = [0.5, 2.5, 4.5, 6.5, 8.5], [1.5, 3.5, 5.5, 7.5, 9.5]
    caller, assistant = beeps(1_000, caller_begins, 10), beeps(600, ai_begins, 10)
    daemon.request("open", connection_id="call", **SSRCS)
    mirror(daemon, scheduled(Side.INPUT, caller, INPUT_SSRC), scheduled(Side.OUTPUT, assistant, OUTPUT_SSRC))
    recording = daemon.request("close", connection_id="call", wait=True)["recording"]

    assert (recording["input"]["received"], recording["output"]["received"]) == (500, 500)
    assert recording["duration_s"] == pytest.approx(10.0, abs=0.02)
    path = merged(daemon, "call")
    assert duration_s(path) == pytest.approx(recording["duration_s"] + 2.0, abs=0.05)
    stream = probe(path)["streams"][0]
    assert (stream["codec_name"], stream["channels"], stream["sample_rate"]) == ("opus", 2, "48000")
    left, right = decode(path)
    assert [begin for begin, _ in bursts(left)] == pytest.approx(caller_begins, abs=0.02)
    assert [begin for begin, _ in bursts(right)] == pytest.approx(ai_begins, abs=0.02)
    for begin in caller_begins:
        assert peak_between(right, begin - 0.02, begin + BURST_S) < 50
    for begin in ai_begins:
        assert peak_between(left, begin - 0.02, begin + BURST_S) < 50
    assert json.loads((daemon.recordings / "conversation_call.json").read_text()) == recording
    assert_spool_is_empty(daemon)


def test_a_side_that_begins_late_lies_late(daemon: Daemon) -> None:
    """A side whose first packet comes 1.5 s after the other's begins 1.5 s into the file."""
    daemon.request("open", connection_id="call", **SSRCS)
    mirror(
        daemon,
        scheduled(Side.INPUT, beeps(1_000, [0.2], 2.5), INPUT_SSRC),
        scheduled(Side.OUTPUT, beeps(600, [0.2], 1), OUTPUT_SSRC, delay_s=1.5),
    )
    recording = daemon.request("close", connection_id="call", wait=True)["recording"]
    assert recording["output"]["first_arrival_s"] == pytest.approx(1.5, abs=0.02)
    left, right = decode(merged(daemon, "call"))
    assert bursts(left)[0][0] == pytest.approx(0.2, abs=0.02)
    assert bursts(right)[0][0] == pytest.approx(1.7, abs=0.02)


def test_one_sided_call_has_a_silent_channel(daemon: Daemon) -> None:
    """A side that never spoke is a silent channel of the right length, with the seed's warning."""
    daemon.request("open", connection_id="call", **SSRCS)
    mirror(daemon, scheduled(Side.OUTPUT, opus_tone(440, 50), OUTPUT_SSRC))
    recording = daemon.request("close", connection_id="call", wait=True)["recording"]
    left, right = decode(merged(daemon, "call"))
    assert len(left) == len(right) == pytest.approx(recording["file_duration_s"] * RATE, abs=3)
    assert max(map(abs, left)) < 10
    assert max(map(abs, right)) > 5_000
    assert recording["input"]["received"] == 0
    assert recording["warnings"] == ["⚠️ WARNING: Channel data is empty for call"]


def test_call_without_a_packet_has_a_report_alone(daemon: Daemon) -> None:
    """A call without a single packet ends stored, with a report, no audio file and the seed's warning."""
    daemon.request("open", connection_id="call", metadata={"caller": "Zoë"})
    reply = daemon.request("close", connection_id="call", wait=True)
    assert reply["state"] == "stored"
    assert reply["recording"]["file"] is None
    assert reply["recording"]["metadata"] == {"caller": "Zoë"}
    assert reply["recording"]["warnings"] == ["⚠️ WARNING: Channel data is empty for call"]
    assert [path.name for path in daemon.recordings.iterdir()] == ["conversation_call.json"]
    assert_spool_is_empty(daemon)


def test_packets_before_their_open_join_the_call(daemon: Daemon) -> None:
    """RTP that races its `open` is part of the call."""
    early, late = opus_tone(440, 20), opus_tone(440, 20)
    datagrams = rtp_stream(early + late)
    daemon.send("input", *datagrams[:20])
    while daemon.request("status")["datagrams"]["input"] < 20:
        pass
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.send("input", *datagrams[20:])
    recording = daemon.request("close", connection_id="call", wait=True)["recording"]
    assert recording["input"]["received"] == 40
    assert recording["input"]["lost"] == 0


def test_fifty_calls_at_once_keep_their_packets(start_daemon: StartDaemon) -> None:
    """No packet of fifty calls at once comes to the wrong call or side."""
    daemon = start_daemon(keep_channels="true")
    calls = {f"call-{number}": number for number in range(50)}
    sides = {
        (connection_id, side): opus_tone(200 + 20 * number + 7 * (side is Side.OUTPUT), 40)
        for connection_id, number in calls.items()
        for side in Side
    }
    schedules = []
    for connection_id, number in calls.items():
        ssrcs = {Side.INPUT: 1_000 + number, Side.OUTPUT: 1_000 + (number + 25) % 50}  # alike on both ports
        daemon.request("open", connection_id=connection_id, input_ssrc=ssrcs["input"], output_ssrc=ssrcs["output"])
        schedules += [scheduled(side, sides[connection_id, side], ssrcs[side]) for side in Side]
    mirror(daemon, *schedules)
    for connection_id in calls:
        daemon.request("close", connection_id=connection_id)
    for connection_id in calls:
        recording = wait_until_stored(daemon, connection_id)
        for side, channel in ((Side.INPUT, "left"), (Side.OUTPUT, "right")):
            assert recording[side]["received"] == 40
            path = daemon.recordings / f"conversation_{connection_id}_{channel}.opus"
            _, packets, _ = oggopus.read_audio(path.read_bytes())
            sent = sides[connection_id, side]
            assert [packet for packet in packets if packet in sent] == sent
    assert_spool_is_empty(daemon)


def wait_until_stored(daemon: Daemon, connection_id: str) -> dict:
    """A call's recording once it is stored."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        shown = daemon.request("show", connection_id=connection_id)
        if shown["state"] in ("stored", "failed"):
            return shown["recording"]
    raise AssertionError(f"{connection_id} is not stored in time")


def test_flood_of_garbage_harms_no_call(daemon: Daemon) -> None:
    """While garbage floods both ports and the control socket, a call is whole and the daemon answers."""
    stop = threading.Event()
    garbage = [
        b"",
        b"\x00",
        b"\x80\xc8" + bytes(30),
        b"\x80",
        bytes(1400),
        b"\xbf\x6f" + bytes(20),
        rtp_packet(ssrc=99),
    ]

    def flood_ports() -> None:
        while not stop.is_set():
            for side in Side:
                daemon.send(side, *garbage * 20)
            time.sleep(0.01)  # some 20,000 datagrams a second, where a call has 100

    def flood_control() -> None:
        while not stop.is_set():
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(daemon.control_socket))
                for line in (b"\xff\xfe\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"op": 1}\n', b"x" * 70_000):
                    try:
                        client.sendall(line)
                    except OSError:
                        break

    def resident_bytes() -> int:
        pages = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    before = resident_bytes()
    threads = [threading.Thread(target=flood) for flood in (flood_ports, flood_control)]
    for thread in threads:
        thread.start()
    try:
        daemon.request("open", connection_id="call", **SSRCS)
        mirror(
            daemon,
            scheduled(Side.INPUT, opus_tone(440, 200), INPUT_SSRC),
            scheduled(Side.OUTPUT, opus_tone(600, 200), OUTPUT_SSRC),
        )
        status = daemon.request("status")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    recording = daemon.request("close", connection_id="call", wait=True)["recording"]
    assert (recording["input"]["received"], recording["output"]["received"]) == (200, 200)
    assert status["dropped"]["input"]["bad_version"] > 1_000
    assert {"too_short", "rtcp", "truncated_csrc"} <= set(status["dropped"]["input"])
    assert resident_bytes() - before < 100 * 1024 * 1024


def test_abandoned_call_is_stored(start_daemon: StartDaemon) -> None:
    """A call that falls silent and is never closed is finalised, stored and cleaned, with the seed's line."""
    daemon = start_daemon(retention="500ms", cleanup_interval="200ms")
    daemon.request("open", connection_id="call", **SSRCS)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    recording = wait_until_stored(daemon, "call")
    assert recording["abandoned"] is True
    assert recording["input"]["received"] == 10
    assert daemon.stop() == 0
    assert "🗑️ Cleaned up 1 old cached connections" in daemon.log.read_text()
    assert_spool_is_empty(daemon)


def test_log_says_the_seeds_lines(daemon: Daemon) -> None:
    """The seed's lines stand in the log, word for word."""
    daemon.request("open", connection_id="call", **SSRCS)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    daemon.request("close", connection_id="call", wait=True)
    events = [json.loads(line)["event"] for line in daemon.log.read_text().splitlines()]
    assert "📊 Audio chunks: WhatsApp=10, OpenAI=0, duration=0s" in events
    assert "🕐 Total conversation duration: 2s" in events
    assert "✅ FFmpeg merge completed successfully" in events
    assert "⚠️ WARNING: Channel data is empty for call" in events


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_open_call_goes_on_after_a_restart(start_daemon: StartDaemon, end: signal.Signals) -> None:
    """A call that is open when the daemon ends, by a signal or by force, goes on with the next one."""
    datagrams = rtp_stream(opus_tone(440, 60))
    daemon = start_daemon(flush_interval="50ms")
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC, metadata={"a": "b"})
    daemon.send("input", *datagrams[:30])
    await_spooled(daemon, datagrams[:30])
    assert daemon.stop(end) == (0 if end == signal.SIGTERM else -signal.SIGKILL)
    daemon.start()
    shown = daemon.request("show", connection_id="call")
    assert (shown["state"], shown["input"]["received"]) == ("open", 30)
    daemon.send("input", *datagrams[30:])
    recording = daemon.request("close", connection_id="call", wait=True)["recording"]
    assert (recording["input"]["received"], recording["input"]["lost"]) == (60, 0)
    assert recording["metadata"] == {"a": "b"}


def await_spooled(daemon: Daemon, datagrams: list[bytes]) -> None:
    """Wait until these datagrams are on disk: each with 44 bytes of headers, behind the file's 24."""
    while daemon.request("status")["spool_bytes"] < 24 + sum(44 + len(datagram) for datagram in datagrams):
        pass


def test_open_call_without_a_packet_survives_a_kill(daemon: Daemon) -> None:
    """A call that was opened right before a kill is open after it."""
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.kill()
    daemon.start()
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    assert daemon.request("close", connection_id="call", wait=True)["recording"]["input"]["received"] == 10


def slow_ffmpeg(directory: Path, seconds: float) -> str:
    """A PATH whose `ffmpeg` notes its start and waits before it does its work."""
    script = directory / "bin" / "ffmpeg"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\ntouch {directory}/merging\nsleep {seconds}\nexec /usr/bin/ffmpeg "$@"\n')
    script.chmod(0o755)
    return f"{script.parent}:/usr/bin:/bin"


def await_file(path: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"


def test_kill_during_the_merge_costs_nothing(start_daemon: StartDaemon, tmp_path: Path, monkeypatch) -> None:
    """A daemon killed while FFmpeg works leaves no process behind, and the next one stores the call."""
    monkeypatch.setenv("PATH", slow_ffmpeg(tmp_path, 2))
    daemon = start_daemon()
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 30)))
    daemon.request("close", connection_id="call")
    await_file(tmp_path / "merging")
    daemon.kill()
    daemon.start()
    assert wait_until_stored(daemon, "call")["input"]["received"] == 30
    assert {path.name for path in daemon.recordings.iterdir()} == {
        "conversation_call_merged.opus",
        "conversation_call.json",
    }
    assert_spool_is_empty(daemon)


def test_stopping_daemon_goes_on_recording(start_daemon: StartDaemon, tmp_path: Path, monkeypatch) -> None:
    """After SIGTERM open calls are flushed at once and recorded until the running finalisation is done."""
    monkeypatch.setenv("PATH", slow_ffmpeg(tmp_path, 2))
    daemon = start_daemon(flush_interval="1h")
    for connection_id, ssrc in (("done", 1), ("live", 2)):
        daemon.request("open", connection_id=connection_id, input_ssrc=ssrc)
    live = rtp_stream(opus_tone(440, 30), ssrc=2)
    daemon.send("input", *rtp_stream(opus_tone(440, 30), ssrc=1))
    daemon.request("close", connection_id="done")
    await_file(tmp_path / "merging")
    daemon.send("input", *live[:20])
    while daemon.request("show", connection_id="live")["input"]["received"] < 20:
        pass
    assert (daemon.spool / "live.pcap").stat().st_size < sum(map(len, live[:20]))
    daemon.process.terminate()
    while (daemon.spool / "live.pcap").stat().st_size < sum(map(len, live[:20])):
        pass
    with pytest.raises(RequestError) as refusal:
        daemon.request("open", connection_id="late")
    assert refusal.value.code == "draining"
    daemon.send("input", *live[20:])
    assert daemon.process.wait(30) == 0
    assert merged(daemon, "done").exists()
    daemon.start()
    assert daemon.request("show", connection_id="live")["input"]["received"] == 30


def test_restart_gives_an_ssrc_to_the_open_call(start_daemon: StartDaemon) -> None:
    """After a restart an SSRC belongs to the call that is open, not to one that was closed before it."""
    daemon = start_daemon(flush_interval="50ms")
    daemon.request("open", connection_id="old", input_ssrc=INPUT_SSRC)
    (daemon.spool / "old.pcap").unlink()
    (daemon.spool / "old.pcap").mkdir()  # it can't be finalised
    with pytest.raises(RequestError):
        daemon.request("close", connection_id="old", wait=True)
    daemon.request("open", connection_id="new", input_ssrc=INPUT_SSRC)
    daemon.kill()
    daemon.start()
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    assert daemon.request("close", connection_id="new", wait=True)["recording"]["input"]["received"] == 10


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"state": "open", "ssrcs": null}', '{"state": "open"}', "\0", "[" * 5_000]
)
def test_damaged_state_stops_nothing(start_daemon: StartDaemon, damage: str) -> None:
    """A call whose state is damaged is stored as abandoned, and other calls go on."""
    daemon = start_daemon(flush_interval="50ms")
    for connection_id, ssrc in (("hurt", 1), ("whole", 2)):
        daemon.request("open", connection_id=connection_id, input_ssrc=ssrc)
    datagrams = rtp_stream(opus_tone(440, 10), ssrc=1)
    daemon.send("input", *datagrams)
    await_spooled(daemon, datagrams)
    daemon.kill()
    (daemon.spool / "hurt.json").write_text(damage)
    daemon.start()
    assert wait_until_stored(daemon, "hurt")["abandoned"] is True
    assert daemon.request("show", connection_id="whole")["state"] == "open"


def test_stragglers_join_no_other_call(daemon: Daemon) -> None:
    """What a sender still sends after its call was closed is no part of the next call with its SSRC."""
    datagrams = rtp_stream(opus_tone(440, 60))
    daemon.request("open", connection_id="one", input_ssrc=INPUT_SSRC)
    daemon.send("input", *datagrams[:20])
    daemon.request("close", connection_id="one", wait=True)
    daemon.send("input", *datagrams[20:40])
    while daemon.request("status")["dropped"]["input"].get("closed", 0) < 20:
        pass
    daemon.request("open", connection_id="two", input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 10), sequence_number=40_000, timestamp=77))
    assert daemon.request("close", connection_id="two", wait=True)["recording"]["input"]["received"] == 10


def test_new_call_of_an_old_ssrc_keeps_its_early_packets(daemon: Daemon) -> None:
    """A call that begins anew with the SSRC of one just closed has the packets that came before its open."""
    for connection_id, count in (("one", 20), ("two", 60)):
        datagrams = rtp_stream(opus_tone(440, count))
        if connection_id == "two":
            daemon.send("input", *datagrams[:50])
            while daemon.request("status")["datagrams"]["input"] < 70:
                pass
        daemon.request("open", connection_id=connection_id, input_ssrc=INPUT_SSRC)
        daemon.send("input", *datagrams[50 if connection_id == "two" else 0 :])
        recording = daemon.request("close", connection_id=connection_id, wait=True)["recording"]
        assert recording["input"]["received"] == count


def test_finalisation_is_taken_up_after_a_kill(start_daemon: StartDaemon) -> None:
    """A call that was being finalised when the daemon was killed is stored by the next one."""
    daemon = start_daemon(flush_interval="50ms")
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    datagrams = rtp_stream(opus_tone(440, 30))
    daemon.send("input", *datagrams)
    await_spooled(daemon, datagrams)
    daemon.request("close", connection_id="call")
    daemon.kill()
    daemon.start()
    assert wait_until_stored(daemon, "call")["input"]["received"] == 30
    assert [path.name for path in daemon.recordings.glob("*.opus")] == ["conversation_call_merged.opus"]


def test_same_id_again_is_stored_beside_the_first(daemon: Daemon) -> None:
    """An id that is stored already is a new call, whose recording gets ~2."""
    for frequency in (440, 600):
        daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
        daemon.send("input", *rtp_stream(opus_tone(frequency, 10)))
        recording = daemon.request("close", connection_id="call", wait=True)["recording"]
    assert recording["file"]["name"] == "conversation_call~2_merged.opus"
    names = {path.name for path in daemon.recordings.iterdir()}
    assert names == {
        "conversation_call_merged.opus",
        "conversation_call.json",
        "conversation_call~2_merged.opus",
        "conversation_call~2.json",
    }


def test_lossless_file_stands_in_when_ffmpeg_fails(start_daemon: StartDaemon, tmp_path: Path, monkeypatch) -> None:
    """A call that FFmpeg can't merge is stored by the lossless engine, and its report says so."""
    fake = tmp_path / "bin" / "ffmpeg"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'out of luck' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    daemon = start_daemon()
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    recording = daemon.request("close", connection_id="call", wait=True)["recording"]
    assert recording["engine"] == "lossless"
    assert any("out of luck" in warning and "lossless" in warning for warning in recording["warnings"])
    assert "❌ FFmpeg merge failed: exit status 1" in daemon.log.read_text()
    fake.unlink()
    assert len(decode(merged(daemon, "call"))) == 2
    assert_spool_is_empty(daemon)


def test_lossless_engine_keeps_every_packet(start_daemon: StartDaemon) -> None:
    """With the lossless engine each channel decodes to what that side's own packets decode to."""
    daemon = start_daemon(merge_engine="lossless")
    packets = {Side.INPUT: opus_speech(100), Side.OUTPUT: opus_speech(100, seed=2)}
    daemon.request("open", connection_id="call", **SSRCS)
    mirror(
        daemon,
        scheduled(Side.INPUT, packets[Side.INPUT], INPUT_SSRC),
        scheduled(Side.OUTPUT, packets[Side.OUTPUT], OUTPUT_SSRC),
    )
    recording = daemon.request("close", connection_id="call", wait=True)["recording"]
    assert (recording["engine"], recording["warnings"]) == ("lossless", [])
    for channel, side in zip(decode(merged(daemon, "call")), Side, strict=True):
        own = decode_packets(packets[side])[oggopus.PRE_SKIP :]
        assert channel[: len(own)] == own


def test_failed_merge_is_kept_and_retried(daemon: Daemon) -> None:
    """A call whose spool can't be read is kept as failed, and stored by a retry once it can."""
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    spool = daemon.spool / "call.pcap"
    aside = spool.rename(daemon.state_path / "aside")
    spool.mkdir()
    with pytest.raises(RequestError) as refusal:
        daemon.request("close", connection_id="call", wait=True)
    assert refusal.value.code == "merge_failed"
    assert daemon.request("status")["jobs"]["failed"] == 1
    spool.rmdir()
    aside.rename(spool)
    assert daemon.request("retry", connection_id="call") == {"jobs": 1}
    assert wait_until_stored(daemon, "call")["input"]["received"] == 0
    assert_spool_is_empty(daemon)


def test_disabled_daemon_says_so(start_daemon: StartDaemon) -> None:
    """With AUDIO_CACHE_ENABLED=false ports and socket answer, and nothing is recorded."""
    daemon = start_daemon(cache_enabled="false")
    with pytest.raises(RequestError) as refusal:
        daemon.request("open", connection_id="call", **SSRCS)
    assert refusal.value.code == "cache_disabled"
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    while (status := daemon.request("status"))["datagrams"]["input"] < 10:
        pass
    assert status["recording"] is False
    assert status["dropped"]["input"] == {"disabled": 10}
    assert list(daemon.spool.iterdir()) == []


def test_unlisted_source_is_not_recorded(start_daemon: StartDaemon) -> None:
    """Packets of a source that is not allowed are counted, and no part of any call."""
    daemon = start_daemon(allowed_sources="192.0.2.0/24")
    daemon.request("open", connection_id="call", **SSRCS)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    while (status := daemon.request("status"))["datagrams"]["input"] < 10:
        pass
    assert status["dropped"]["input"] == {"source_not_allowed": 10}
    assert daemon.request("close", connection_id="call", wait=True)["recording"]["input"]["received"] == 0


def test_drain_finishes_jobs_and_exits(daemon: Daemon) -> None:
    """A draining daemon takes no new call, finishes what runs, and exits with 0."""
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    daemon.request("close", connection_id="call")
    daemon.request("drain")
    with pytest.raises(RequestError) as refusal:
        daemon.request("open", connection_id="another")
    assert refusal.value.code == "draining"
    assert daemon.process.wait(30) == 0
    assert merged(daemon, "call").exists()


def test_metrics_and_health_are_served(daemon: Daemon) -> None:
    """The HTTP port gives metrics in Prometheus' form, and health."""
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    daemon.request("close", connection_id="call", wait=True)
    metrics = get(daemon, "/metrics")
    assert 'twotrack_datagrams_total{side="input"} 10.0' in metrics
    assert 'twotrack_recordings_total{outcome="stored"} 1.0' in metrics
    assert get(daemon, "/healthz").endswith("ok\n")
    assert get(daemon, "/readyz").startswith("HTTP/1.0 200")


def get(daemon: Daemon, path: str) -> str:
    """An HTTP answer, headers included."""
    host, port = daemon.http_address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65_536), b"")).decode()


def test_two_daemons_do_not_share_a_state_directory(daemon: Daemon) -> None:
    """A second daemon on the same state directory refuses to start, in one sentence."""
    second = Daemon(daemon.state_path, {"control_socket": str(daemon.state_path / "other.sock")})
    command = [sys.executable, "-m", "twotrack", "serve"]
    outcome = subprocess.run(command, env=second.environment(), capture_output=True, text=True, timeout=30)
    assert outcome.returncode == 1
    assert outcome.stderr.splitlines()[-1].startswith("Error: another twotrack uses the state directory")
