"""The control socket: every request, every reply code, and what a rude client meets."""

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon
from packets import INPUT_SSRC, OUTPUT_SSRC, opus_tone, rtp_stream
from twotrack.errors import RequestError

StartDaemon = Callable[..., Daemon]


class Line:
    """A connection that speaks lines, as `nc -U` does."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._replies = client.makefile("rb")

    def send(self, *lines: bytes | dict[str, Any]) -> None:
        """Send lines at once, each a request or raw bytes."""
        encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        self._client.sendall(b"".join(line + b"\n" for line in encoded))

    def read(self) -> dict[str, Any]:
        """The next reply."""
        return json.loads(self._replies.readline())

    def is_hung_up(self) -> bool:
        """True if nothing more will come."""
        return self._replies.readline() == b""

    def close(self) -> None:
        """Read no more."""
        self._replies.close()

    def half_close(self) -> None:
        """Say that no request follows."""
        self._client.shutdown(socket.SHUT_WR)


@contextmanager
def connected(daemon: Daemon) -> Iterator[Line]:
    """A connection to the daemon."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(daemon.control_socket))
        line = Line(client)
        yield line
        line.close()


def refusal(daemon: Daemon, op: str, **members: Any) -> str:
    """The code with which a request is refused."""
    with pytest.raises(RequestError) as error:
        daemon.request(op, **members)
    assert error.value.message
    return error.value.code


def test_open_maps_ssrcs_and_gives_the_addresses(daemon: Daemon) -> None:
    """`open` answers with the id, the state and where to send."""
    reply = daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC, output_ssrc="0x0009fbf1")
    assert reply == {
        "connection_id": "call",
        "state": "open",
        "input_address": str(daemon.input_address),
        "output_address": str(daemon.output_address),
    }
    shown = daemon.request("show", connection_id="call")
    assert (shown["input"]["ssrcs"], shown["output"]["ssrcs"]) == (["0x0001e240"], ["0x0009fbf1"])


def test_open_again_adds_an_ssrc(daemon: Daemon) -> None:
    """`open` with another SSRC adds it, the same again changes nothing."""
    for ssrc in (1, 2, 2, "0x2"):
        daemon.request("open", connection_id="call", input_ssrc=ssrc)
    assert daemon.request("show", connection_id="call")["input"]["ssrcs"] == ["0x00000001", "0x00000002"]


def test_close_counts_each_side_once(daemon: Daemon) -> None:
    """Closing a side twice takes one reference; `wait` waits only for the last."""
    daemon.request("open", connection_id="call")
    for _ in range(2):
        reply = daemon.request("close", connection_id="call", side="input", wait=True)
        assert reply == {"references": 1, "state": "open"}
    reply = daemon.request("close", connection_id="call", side="output", wait=True)
    assert (reply["references"], reply["state"]) == (0, "stored")
    assert reply["recording"]["connection_id"] == "call"
    again = daemon.request("close", connection_id="call", wait=True)
    assert (again["references"], again["recording"]) == (0, reply["recording"])


def test_close_without_wait_answers_at_once(daemon: Daemon) -> None:
    """`close` without `wait` says that the call is closing."""
    daemon.request("open", connection_id="call")
    assert daemon.request("close", connection_id="call") == {"references": 0, "state": "closing"}


@pytest.mark.parametrize("connection_id", ["../x", "a/b", "", "x" * 201, "a\nb", ".hidden", "ä", "a b", "a\0"])
def test_bad_connection_ids_are_refused(daemon: Daemon, connection_id: str) -> None:
    """An id that no file may be named after is refused, and nothing is written."""
    before = sorted(daemon.state_path.parent.rglob("*"))
    for op in ("open", "close", "show", "discard", "retry"):
        assert refusal(daemon, op, connection_id=connection_id) == "invalid_connection_id"
    assert sorted(daemon.state_path.parent.rglob("*")) == before


@pytest.mark.parametrize("connection_id", [5, None, ["a"], {"a": 1}, True, 1.5])
def test_ids_that_are_no_text_are_refused(daemon: Daemon, connection_id: object) -> None:
    """An id that is not a string is a bad request."""
    with connected(daemon) as line:
        line.send({"op": "open", "connection_id": connection_id})
        assert line.read()["error"]["code"] == "bad_request"


def test_longest_connection_id_is_recorded(daemon: Daemon) -> None:
    """An id of 200 characters is fine, to the stored file's name."""
    connection_id = "x" * 200
    daemon.request("open", connection_id=connection_id, input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    recording = daemon.request("close", connection_id=connection_id, wait=True)["recording"]
    assert (daemon.recordings / recording["file"]["name"]).exists()


@pytest.mark.parametrize(
    "members",
    [
        {"input_ssrc": -1},
        {"input_ssrc": 2**32},
        {"output_ssrc": "0xzz"},
        {"output_ssrc": 1.5},
        {"output_ssrc": True},
        {"metadata": []},
        {"metadata": {"a": 1}},
        {"metadata": {"a": "x" * 17_000}},
    ],
)
def test_bad_members_are_refused(daemon: Daemon, members: dict[str, Any]) -> None:
    """A member of a wrong kind or size is a bad request, and opens nothing."""
    assert refusal(daemon, "open", connection_id="call", **members) == "bad_request"
    assert refusal(daemon, "show", connection_id="call") == "unknown_connection"


@pytest.mark.parametrize("op", ["close", "show", "discard", "retry"])
def test_unknown_connections_are_refused(daemon: Daemon, op: str) -> None:
    """What is asked of a call that nobody opened is refused."""
    assert refusal(daemon, op, connection_id="call") == "unknown_connection"


def test_bad_words_are_refused(daemon: Daemon) -> None:
    """Unknown ops, sides and states are refused by name."""
    assert refusal(daemon, "explode") == "unknown_op"
    daemon.request("open", connection_id="call")
    assert refusal(daemon, "close", connection_id="call", side="left") == "bad_request"
    assert refusal(daemon, "close", connection_id="call", wait="yes") == "bad_request"
    assert refusal(daemon, "list", state="asleep") == "bad_request"


def test_ssrc_of_another_call_is_refused(daemon: Daemon) -> None:
    """An SSRC belongs to one call of a port until that call is finalised."""
    daemon.request("open", connection_id="one", input_ssrc=7)
    assert refusal(daemon, "open", connection_id="two", input_ssrc=7) == "ssrc_in_use"
    daemon.request("open", connection_id="two", output_ssrc=7)
    daemon.request("close", connection_id="one", wait=True)
    daemon.request("open", connection_id="two", input_ssrc=7)


def test_too_many_connections_are_refused(start_daemon: StartDaemon) -> None:
    """One call more than AUDIO_MAX_CONNECTIONS is refused; a closed one makes room."""
    daemon = start_daemon(max_connections="2")
    for connection_id in ("one", "two"):
        daemon.request("open", connection_id=connection_id)
    assert refusal(daemon, "open", connection_id="three") == "too_many_connections"
    daemon.request("close", connection_id="one", wait=True)
    daemon.request("open", connection_id="three")


def test_full_spool_refuses_new_calls_only(start_daemon: StartDaemon) -> None:
    """Past AUDIO_SPOOL_LIMIT a new call is refused."""
    daemon = start_daemon(spool_limit="0.0001%")
    assert refusal(daemon, "open", connection_id="call") == "spool_full"


def test_failed_storage_is_said_and_kept(daemon: Daemon) -> None:
    """A recording that can't be stored fails with `storage_failed`, stays, and is stored by a retry."""
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    daemon.recordings.rmdir()
    daemon.recordings.write_text("in the way")
    assert refusal(daemon, "close", connection_id="call", wait=True) == "storage_failed"
    assert daemon.request("show", connection_id="call")["error"]["code"] == "storage_failed"
    assert refusal(daemon, "open", connection_id="call") == "already_closed"
    daemon.recordings.unlink()
    with connected(daemon) as line:
        line.send({"op": "watch"})
        line.read()
        assert daemon.request("retry") == {"jobs": 1}
        assert [line.read()["state"] for _ in range(2)] == ["finalising", "stored"]


def test_call_in_the_making_is_neither_opened_nor_discarded(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch
) -> None:
    """While a call is finalised it can't be opened or discarded; a worker that dies fails it, and no other."""
    monkeypatch.setenv("PATH", f"{fake_ffmpeg(tmp_path)}:/usr/bin:/bin")
    daemon = start_daemon()
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    with connected(daemon) as line:
        line.send({"op": "watch"}, {"op": "close", "connection_id": "call", "wait": True, "tag": "t"})
        while line.read().get("state") != "finalising":
            pass
        for op in ("open", "discard"):
            assert refusal(daemon, op, connection_id="call") == "already_closed"
        while not (tmp_path / "started").exists():
            pass
        for worker in children(daemon.process.pid):
            os.kill(worker, signal.SIGKILL)
        replies = [line.read(), line.read()]
    assert {reply.get("state") or reply["error"]["code"] for reply in replies} == {"failed", "internal"}
    os.killpg(int((tmp_path / "started").read_text()), signal.SIGKILL)


def fake_ffmpeg(directory: Path) -> Path:
    """A folder with an `ffmpeg` that hangs, once it has written its process id."""
    script = directory / "bin" / "ffmpeg"
    script.parent.mkdir()
    script.write_text(
        f"#!/bin/sh\necho $$ > {directory}/new && mv {directory}/new {directory}/started\nexec sleep 60\n"
    )
    script.chmod(0o755)
    return script.parent


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_discard_forgets_a_call(daemon: Daemon) -> None:
    """A discarded call leaves nothing behind, and its SSRC is free."""
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    assert daemon.request("discard", connection_id="call") == {}
    assert list(daemon.spool.iterdir()) == []
    assert daemon.request("show", connection_id="call")["state"] == "discarded"
    assert refusal(daemon, "discard", connection_id="call") == "unknown_connection"
    daemon.request("open", connection_id="other", input_ssrc=INPUT_SSRC)


def test_status_counts_what_arrives(daemon: Daemon) -> None:
    """`status` says version, addresses, calls, datagrams, drops, jobs, storage and disk."""
    daemon.request("open", connection_id="call", output_ssrc=OUTPUT_SSRC)
    daemon.send("output", *rtp_stream(opus_tone(440, 10), ssrc=OUTPUT_SSRC), b"\x80\xc8" + bytes(6))
    while (status := daemon.request("status"))["datagrams"]["output"] < 11:
        pass
    assert status["version"] == "0.1.0"
    assert status["uptime_s"] > 0
    assert status["connections"]["open"] == 1
    assert status["dropped"] == {"input": {}, "output": {"rtcp": 1}}
    assert status["jobs"] == {"waiting": 0, "running": 0, "failed": 0}
    assert status["recording"] is True
    assert status["http_address"].startswith("127.0.0.1:")
    assert status["spool_bytes"] >= 0
    assert status["storage"]["type"] == "local"


def test_list_gives_calls_of_a_state(daemon: Daemon) -> None:
    """`list` gives a row for each call, or for those of one state."""
    for connection_id in ("one", "two"):
        daemon.request("open", connection_id=connection_id)
    daemon.request("close", connection_id="two", wait=True)
    rows = daemon.request("list")["connections"]
    assert {row["connection_id"]: row["state"] for row in rows} == {"one": "open", "two": "stored"}
    assert [row["connection_id"] for row in daemon.request("list", state="open")["connections"]] == ["one"]


def test_watch_tells_every_change_once(daemon: Daemon) -> None:
    """A watcher gets one line for each change of state, the last with the recording."""
    with connected(daemon) as line:
        line.send({"op": "watch"}, {"op": "watch"})
        assert [line.read(), line.read()] == [{"ok": True}, {"ok": True}]
        daemon.request("open", connection_id="call")
        recording = daemon.request("close", connection_id="call", wait=True)["recording"]
        events = [line.read() for _ in range(4)]
    assert [event["state"] for event in events] == ["open", "closing", "finalising", "stored"]
    assert all(event["connection_id"] == "call" for event in events)
    assert events[-1]["recording"] == recording


def test_many_requests_without_waiting_are_answered_in_order(daemon: Daemon) -> None:
    """Untagged requests on one connection are answered in their order, though the first waits longest."""
    with connected(daemon) as line:
        line.send(
            {"op": "open", "connection_id": "call"},
            {"op": "close", "connection_id": "call", "wait": True},
            {"op": "status"},
            {"op": "list"},
        )
        replies = [line.read() for _ in range(4)]
    assert [
        next(key for key in ("input_address", "recording", "connections") if key in reply) for reply in replies
    ] == [
        "input_address",
        "recording",
        "input_address",
        "connections",
    ]


def test_tagged_wait_holds_nothing_up(daemon: Daemon) -> None:
    """A tag comes back unchanged, and a `close` that waits does not hold up what follows it."""
    tag = {"any": ["value", 1, None]}
    with connected(daemon) as line:
        line.send({"op": "open", "connection_id": "call"})
        line.read()
        line.send({"op": "close", "connection_id": "call", "wait": True, "tag": tag}, {"op": "status", "tag": None})
        first, second = line.read(), line.read()
    assert (first["tag"], "version" in first) == (None, True)
    assert (second["tag"], "recording" in second) == (tag, True)


def test_half_closed_client_gets_its_replies(daemon: Daemon) -> None:
    """A client that sends all and closes its side, as `nc -N` does, still gets every reply."""
    with connected(daemon) as line:
        line.send({"op": "open", "connection_id": "call"}, {"op": "close", "connection_id": "call", "wait": True})
        line.half_close()
        assert line.read()["ok"]
        assert "recording" in line.read()
        assert line.is_hung_up()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        b"\xff\xfe\x00",
        b"[1]",
        b"5",
        b'{"op": NaN}',
        b'{"op": "status", "tag": 1e999}',
        b"[" * 50_000,
        b"{}",
    ],
)
def test_malformed_lines_are_refused_and_the_connection_goes_on(daemon: Daemon, raw: bytes) -> None:
    """A line that is no request is a bad request, and the next one is answered."""
    with connected(daemon) as line:
        line.send(raw, {"op": "status"})
        assert line.read()["error"]["code"] == "bad_request"
        assert line.read()["ok"] is True


def test_events_come_behind_the_replies_before_them(daemon: Daemon) -> None:
    """In one connection replies and events stand in the order of what they answer."""
    with connected(daemon) as line:
        line.send(
            {"op": "open", "connection_id": "call"},
            {"op": "watch"},
            {"op": "close", "connection_id": "call"},
        )
        opened, watching = line.read(), line.read()
        rest = [line.read() for _ in range(4)]
    assert opened["connection_id"] == "call"
    assert watching == {"ok": True}
    assert [answer["state"] for answer in rest if "ok" not in answer] == ["closing", "finalising", "stored"]


def test_client_that_does_not_read_is_not_answered_on(daemon: Daemon) -> None:
    """A flood of requests from a client that reads nothing neither fills the memory nor keeps others waiting."""
    for number in range(300):
        daemon.request("open", connection_id=f"call-{number}")
    with socket.socket(socket.AF_UNIX) as rude:
        rude.setblocking(False)
        rude.connect(str(daemon.control_socket))
        flood = b'{"op": "list"}\n' * 5_000
        sent = rude.send(flood)
        assert sent > 10_000
        started = time.monotonic()
        daemon.request("status")
        assert time.monotonic() - started < 5
        assert resident_bytes(daemon.process.pid) < 200 * 1024 * 1024


def test_requests_behind_a_wait_are_bounded(start_daemon: StartDaemon, tmp_path: Path, monkeypatch) -> None:
    """Requests behind an untagged `close` that waits pile up only so far."""
    monkeypatch.setenv("PATH", f"{fake_ffmpeg(tmp_path)}:/usr/bin:/bin")
    daemon = start_daemon(ffmpeg_timeout="5s")
    daemon.request("open", connection_id="call", input_ssrc=INPUT_SSRC)
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.control_socket))
        client.settimeout(2)
        client.sendall(b'{"op": "close", "connection_id": "call", "wait": true}\n')
        with pytest.raises(TimeoutError):
            client.sendall(b'{"op": "status"}\n' * 100_000)
        assert resident_bytes(daemon.process.pid) < 200 * 1024 * 1024


def resident_bytes(pid: int) -> int:
    """A process's memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_over_long_line_is_refused_and_closed(daemon: Daemon, ending: bytes) -> None:
    """A line beyond 64 KiB is a bad request, ended or not, and the connection is closed."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(daemon.control_socket))
        client.sendall(b'{"op": "status", "tag": "' + b"x" * 65_536 + ending)
        replies = b"".join(iter(lambda: client.recv(4096), b""))
    assert json.loads(replies)["error"]["code"] == "bad_request"
    assert daemon.request("status")["version"]


def test_over_long_line_takes_no_reply_away(daemon: Daemon) -> None:
    """What was asked before an over-long line is answered before the refusal."""
    with connected(daemon) as line:
        line.send({"op": "open", "connection_id": "call", "tag": 1}, b"x" * 70_000)
        assert line.read()["tag"] == 1
        assert line.read()["error"]["code"] == "bad_request"
        assert line.is_hung_up()


def test_last_line_needs_no_end(daemon: Daemon) -> None:
    """A last request without an end of line is answered too, and so is a tagged wait before it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(daemon.control_socket))
        client.sendall(
            b'{"op":"open","connection_id":"call"}\n{"op":"close","connection_id":"call","wait":true,"tag":2}\n'
        )
        client.sendall(b'{"op":"status"}')
        client.shutdown(socket.SHUT_WR)
        replies = [json.loads(reply) for reply in b"".join(iter(lambda: client.recv(65_536), b"")).splitlines()]
    assert len(replies) == 3
    assert next(reply for reply in replies if reply.get("tag") == 2)["recording"]
    assert any("version" in reply for reply in replies)


def test_many_waiting_requests_survive_a_hang_up(daemon: Daemon) -> None:
    """A client that sends thousands of requests and hangs up troubles nobody."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.control_socket))
        client.sendall(b'{"op":"open","connection_id":"call"}\n' * 3_000)
    assert daemon.request("status")["version"]
    assert "Traceback" not in daemon.log.read_text()


def test_worker_that_dies_idle_costs_nothing(daemon: Daemon) -> None:
    """A finalising process that ends between two jobs is replaced."""
    for connection_id in ("one", "two"):
        daemon.request("open", connection_id=connection_id)
        assert daemon.request("close", connection_id=connection_id, wait=True)["state"] == "stored"
        for worker in children(daemon.process.pid):
            os.kill(worker, signal.SIGKILL)


def test_line_of_the_full_length_is_answered(daemon: Daemon) -> None:
    """A line of exactly 64 KiB is a request like any other."""
    request = b'{"op": "status", "tag": "%s"}'
    with connected(daemon) as line:
        line.send(request % (b"x" * (65_536 - len(request) + 2)))
        assert line.read()["ok"] is True


def test_control_socket_is_for_its_owner_and_group(daemon: Daemon) -> None:
    """The socket's mode is 0660, and it goes when the daemon goes."""
    assert stat.S_IMODE(daemon.control_socket.stat().st_mode) == 0o660
    assert daemon.stop() == 0
    assert not daemon.control_socket.exists()


def test_socket_of_a_dead_daemon_is_replaced(daemon: Daemon) -> None:
    """After a kill the next daemon takes the socket over."""
    daemon.kill()
    assert daemon.control_socket.exists()
    daemon.start()
    assert daemon.request("status")["version"]
