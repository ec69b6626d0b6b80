"""The command line: what each command prints, and how it ends."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from daemons import Daemon
from packets import INPUT_SSRC, OUTPUT_SSRC, opus_speech, opus_tone, rtp_stream
from sound import bursts, decode
from twotrack import pcap
from twotrack.pcap import SpoolPorts

StartDaemon = Callable[..., Daemon]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `twotrack` with nothing of this machine's own configuration."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIO_", "TWOTRACK_"))}
    command = [sys.executable, "-m", "twotrack", *map(str, arguments)]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=100)


def at(daemon: Daemon, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command that speaks to the daemon."""
    return run(*arguments, AUDIO_CONTROL_SOCKET=str(daemon.control_socket))


def assert_one_sentence(outcome: subprocess.CompletedProcess[str], exit_code: int) -> None:
    """It failed with this code and one line on standard error."""
    assert outcome.returncode == exit_code, outcome.stderr
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("Error: ")
    assert outcome.stderr.count("\n") == 1


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A spool of a second of both sides."""
    path = tmp_path / "call.pcap"
    path.write_bytes(written_spool())
    return path


def written_spool(start_s: int = 1_700_000_000, ssrcs: tuple[int, int] = (INPUT_SSRC, OUTPUT_SSRC)) -> bytes:
    """Bytes of a spool whose output begins 1 ms after its input."""
    frames = []
    for ssrc, port, packets in zip(ssrcs, (5004, 5006), (opus_speech(50), opus_tone(600, 50)), strict=True):
        header = pcap.frame_header(("192.0.2.1", 4000), ("192.0.2.2", port))
        for number, datagram in enumerate(rtp_stream(packets, ssrc=ssrc)):
            arrival_ns = start_s * 1_000_000_000 + number * 20_000_000 + (port == 5006) * 1_000_000
            frames.append((arrival_ns, pcap.record(arrival_ns, header(len(datagram)), datagram)))
    return pcap.spool_header(SpoolPorts(5004, 5006)) + b"".join(frame for _, frame in sorted(frames))


def test_version_is_one_line() -> None:
    """`twotrack --version` says name and version."""
    assert run("--version").stdout == "twotrack 0.1.0\n"


def test_call_by_hand(daemon: Daemon) -> None:
    """`open`, `list`, `close`, `show` and `status` work by hand, and print plain text in a pipe."""
    opened = at(daemon, "open", "call", "--input-ssrc", "0x1e240", "--output-ssrc", OUTPUT_SSRC, "--metadata", "a=b")
    assert "state           open" in opened.stdout
    daemon.send("input", *rtp_stream(opus_tone(440, 10)))
    assert at(daemon, "list").stdout.splitlines()[1].startswith("call\topen\t2\t")
    assert json.loads(at(daemon, "list", "--json").stdout) == daemon.request("list")
    assert "references  1" in at(daemon, "close", "call", "--side", "input").stdout
    closed = json.loads(at(daemon, "close", "call", "--wait", "--json").stdout)
    assert closed["recording"]["metadata"] == {"a": "b"}
    assert json.loads(at(daemon, "show", "call", "--json").stdout)["recording"] == closed["recording"]
    assert "connections.stored      1" in at(daemon, "status").stdout


def test_daemons_no_is_exit_code_1(daemon: Daemon) -> None:
    """What the daemon refuses is one sentence and exit code 1."""
    assert_one_sentence(at(daemon, "show", "nobody"), 1)
    assert_one_sentence(at(daemon, "open", "../x"), 1)


@pytest.mark.parametrize("command", [["status"], ["close", "x"], ["watch"], ["drain"]])
def test_no_daemon_is_exit_code_69(tmp_path: Path, command: list[str]) -> None:
    """Without a daemon a command says how to start one, with exit code 69."""
    assert_one_sentence(run(*command, AUDIO_CONTROL_SOCKET=str(tmp_path / "none.sock")), 69)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"{}\n", b"[]\n", b'{"ok": false}\n', b""])
def test_socket_of_another_program_is_exit_code_69(tmp_path: Path, answer: bytes) -> None:
    """What answers on the socket and is no daemon is named as such."""
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                client.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        outcome = run("status", "--control-socket", path)
        server.join()
    assert_one_sentence(outcome, 69)


def test_usage_is_exit_code_2() -> None:
    """A command that makes no sense is exit code 2."""
    for arguments in (["explode"], ["close"], ["open", "x", "--input-ssrc", "abc"], ["close", "x", "--side", "up"]):
        assert run(*arguments).returncode == 2


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"AUDIO_RETENTION": "soon"}, ["AUDIO_RETENTION", "soon", "duration"]),
        ({"AUDIO_RETENTOIN": "30m"}, ["AUDIO_RETENTOIN", "AUDIO_RETENTION"]),
        ({"AUDIO_INPUT_LISTEN": "0.0.0.0:5004"}, ["AUDIO_INPUT_LISTEN", "AUDIO_ALLOWED_SOURCES"]),
        ({"AUDIO_STORAGE_TYPE": "gcs", "AUDIO_STORAGE_PATH": "bucket"}, ["AUDIO_STORAGE_TYPE", "not supported"]),
        ({"AUDIO_WEBHOOK_URL": "http://localhost/"}, ["AUDIO_WEBHOOK_URL", "not supported"]),
        ({"TWOTRACK_CONFIG": "/nowhere/twotrack.toml"}, ["/nowhere/twotrack.toml"]),
    ],
)
def test_bad_settings_are_exit_code_78(tmp_path: Path, environment: dict[str, str], words: list[str]) -> None:
    """The daemon refuses to start on a bad setting, in one line that names it."""
    outcome = run("serve", **environment | {"AUDIO_STATE_PATH": str(tmp_path)})
    assert_one_sentence(outcome, 78)
    assert all(word in outcome.stderr for word in words)


def test_taken_port_is_one_sentence(daemon: Daemon, tmp_path: Path) -> None:
    """A port that is in use is one sentence that says what to do."""
    environment = {"AUDIO_STATE_PATH": str(tmp_path / "other"), "AUDIO_INPUT_LISTEN": str(daemon.input_address)}
    assert_one_sentence(run("serve", **environment), 1)


def test_settings_are_shown_with_their_source(tmp_path: Path) -> None:
    """`config show` says each value and where it was set; flags beat variables beat the file."""
    path = tmp_path / "twotrack.toml"
    path.write_text('retention = "5m"\nmax_connections = 7\nkeep_channels = true\n')
    environment = {"TWOTRACK_CONFIG": str(path), "AUDIO_RETENTION": "90s", "HOME": str(tmp_path)}
    assert run("config", "check", **environment).returncode == 0
    shown = json.loads(run("config", "show", "--json", **environment).stdout)
    assert shown["retention"] == {"value": "90", "source": "the variable AUDIO_RETENTION"}
    assert shown["max_connections"]["value"] == "7"
    assert shown["keep_channels"] == {"value": "true", "source": f"the file {path}, key keep_channels"}
    assert shown["tail_padding"] == {"value": "2", "source": "default"}


def test_render_makes_the_stereo_file(capture: Path, tmp_path: Path) -> None:
    """`render` makes of a spool what the daemon would have stored, and its report."""
    output, report = tmp_path / "out.opus", tmp_path / "report.json"
    outcome = run("render", capture, "-o", output, "--report", report, "--json")
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(outcome.stdout) == json.loads(report.read_text())
    left, right = decode(output)
    assert len(left) == len(right) == 48_000 * 3 + 48
    begin, end = bursts(right)[0]
    assert (begin, end) == pytest.approx((0.001, 1.001), abs=0.01)
    first = output.read_bytes()
    assert run("render", capture, "-o", output).returncode == 0
    assert output.read_bytes() == first


def test_render_takes_the_sides_that_are_named(capture: Path, tmp_path: Path) -> None:
    """Ports or SSRCs say which side is which."""
    for choice in (
        ["--input-port", 5006, "--output-port", 5004],
        ["--input-ssrc", "0x0009fbf1", "--output-ssrc", INPUT_SSRC],
    ):
        outcome = run("render", capture, "-o", tmp_path / "out.opus", "--json", *choice)
        report = json.loads(outcome.stdout)
        assert report["input"]["ssrcs"] == ["0x0009fbf1"]
        assert report["output"]["ssrcs"] == ["0x0001e240"]
    one_sided = json.loads(run("render", capture, "-o", tmp_path / "o.opus", "--json", "--output-port", 5006).stdout)
    assert (one_sided["input"]["received"], one_sided["output"]["received"]) == (0, 50)


@pytest.mark.parametrize("content", [b"", b"text that is no capture at all", b"\x0a\x0d\x0d\x0a" + bytes(40)])
def test_render_refuses_what_is_no_capture(tmp_path: Path, content: bytes) -> None:
    """A file that is no capture is refused in one sentence, and nothing is written."""
    path = tmp_path / "call.pcap"
    path.write_bytes(content)
    assert_one_sentence(run("render", path, "-o", tmp_path / "out.opus"), 1)
    assert not (tmp_path / "out.opus").exists()


def test_render_refuses_what_it_cannot_do(capture: Path, tmp_path: Path) -> None:
    """No file, no such port, no place to write: one sentence each."""
    assert_one_sentence(run("render", tmp_path / "none.pcap", "-o", tmp_path / "out.opus"), 1)
    assert_one_sentence(run("render", capture, "-o", tmp_path / "out.opus", "--input-port", 9), 1)
    assert_one_sentence(run("render", capture, "-o", tmp_path / "no" / "out.opus"), 1)
    twice = run("render", capture, "-o", tmp_path / "out.opus", "--input-port", 5004, "--output-port", 5004)
    assert twice.returncode == 2
    years = tmp_path / "years.pcap"
    years.write_bytes(written_spool(start_s=1_900_000_000, ssrcs=(3, 4)))
    assert_one_sentence(run("render", capture, years, "-o", tmp_path / "out.opus"), 1)
    mixed = run("render", capture, "-o", tmp_path / "out.opus", "--input-port", 5004, "--output-ssrc", 1)
    assert mixed.returncode == 2


def test_render_without_ffmpeg_is_lossless(capture: Path, tmp_path: Path) -> None:
    """Without FFmpeg `render` makes the lossless file, and says how to get FFmpeg."""
    outcome = run("render", capture, "-o", tmp_path / "out.opus", "--json", PATH="/nowhere")
    report = json.loads(outcome.stdout)
    assert report["engine"] == "lossless"
    assert "apt-get install ffmpeg" in report["warnings"][0]
    assert len(decode(tmp_path / "out.opus")) == 2


def test_every_capture_renders_or_is_refused(captures: Path, tmp_path: Path) -> None:
    """Each capture that others made becomes a stereo file, or is refused in one sentence."""
    rendered = 0
    for path in sorted(captures.glob("*.pcap*")):
        output = tmp_path / f"{path.stem}.opus"
        outcome = run("render", path, "-o", output, "--json")
        if outcome.returncode:
            assert_one_sentence(outcome, 1)
            continue
        rendered += 1
        report = json.loads(outcome.stdout)
        assert len(decode(output)[0]) == pytest.approx(report["file_duration_s"] * 48_000, abs=3)
        assert report["file_duration_s"] == pytest.approx(report["duration_s"] + 2, abs=0.001)
    assert rendered == 8


def test_replay_plays_a_capture_onto_a_daemon(daemon: Daemon, capture: Path) -> None:
    """`replay` opens a call, sends both sides in their own timing, and closes it."""
    outcome = at(daemon, "replay", capture, "--id", "again", "--json")
    assert outcome.returncode == 0, outcome.stderr
    recording = json.loads(outcome.stdout)
    assert recording["connection_id"] == "again"
    assert (recording["input"]["received"], recording["output"]["received"]) == (50, 50)
    assert recording["duration_s"] == pytest.approx(1.001, abs=0.01)


def test_demo_records_two_voices(tmp_path: Path) -> None:
    """`demo --json` prints the report alone; each voice is on its channel and nowhere else."""
    outcome = run("demo", "--json", "--output", tmp_path / "demo")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    report = json.loads(outcome.stdout)
    assert (report["input"]["received"], report["output"]["received"]) == (661, 661)
    path = tmp_path / "demo" / report["file"]["name"]
    left, right = decode(path)
    for own, other in ((left, right), (right, left)):
        turns = bursts(own, threshold=1_000, quiet_ms=800)
        assert len(turns) == 2
        for begin, end in turns:
            assert max(map(abs, other[int(begin * 48_000) : int(end * 48_000)])) < 300
