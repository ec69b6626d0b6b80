"""`twotrack demo`: a daemon of its own records a real call of two voices."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlparse

import click

from twotrack import oggopus, opus
from twotrack.cli.options import as_json, print_json
from twotrack.cli.picture import print_recording
from twotrack.cli.progress import Progress
from twotrack.cli.sides import engine_option
from twotrack.client import Client
from twotrack.errors import TwotrackError
from twotrack.keys import PREFIX, parse_address
from twotrack.merge import Engine
from twotrack.playback import Scheduled, play
from twotrack.rtp import make
from twotrack.side import Side

VOICES = {Side.INPUT: "caller.opus", Side.OUTPUT: "assistant.opus"}
SSRCS = {Side.INPUT: 0x0001E240, Side.OUTPUT: 0x0009FBF1}
PAYLOAD_TYPE = 111
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0


@click.command("demo")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("twotrack-demo"),
    help="Directory of the recording; default: twotrack-demo.",
)
@engine_option
@as_json
def demo_command(output: Path, engine_name: str | None, is_json: bool) -> None:
    """Record a real call: start a daemon on free ports, mirror two voices to it in real time, close it.

    Takes some 15 seconds, and leaves the stereo file and its report in the output directory.
    """
    schedule = _schedule()
    connection_id = time.strftime("demo-%Y%m%d-%H%M%S")
    with _daemon(output.absolute(), engine_name or Engine.FFMPEG) as control_socket, Client(control_socket) as client:
        status = client.request("status")
        addresses = {side: parse_address(status[f"{side}_address"]) for side in Side}
        if not is_json:
            click.echo(
                f"A daemon listens for the caller on {status['input_address']} and for the AI on"
                f" {status['output_address']}; {len(schedule)} packets follow in real time."
            )
        ssrcs = {f"{side}_ssrc": ssrc for side, ssrc in SSRCS.items()}
        client.request("open", connection_id=connection_id, **ssrcs)
        with Progress("On the phone") as progress:
            play(schedule, addresses, on_progress=progress.update)
        recording = client.request("close", connection_id=connection_id, wait=True)["recording"]
    if is_json:
        print_json(recording)
        return
    click.echo()
    print_recording(recording, Path(unquote(urlparse(recording["file"]["url"]).path)))


def _schedule() -> list[Scheduled]:
    """Both voices as RTP, in the order of their times."""
    schedule = [packet for side in Side for packet in _packetize(side)]
    return sorted(schedule, key=lambda packet: packet.due_s)


def _packetize(side: Side) -> Iterator[Scheduled]:
    content = resources.files("twotrack").joinpath("voices", VOICES[side]).read_bytes()
    _, packets, _ = oggopus.read_audio(content)
    timestamp = 0
    for number, packet in enumerate(packets):
        datagram = make(SSRCS[side], number, timestamp, PAYLOAD_TYPE, packet, marker=number == 0)
        yield Scheduled(timestamp / opus.SAMPLE_RATE, side, datagram)
        timestamp += opus.packet_samples(packet)


@contextmanager
def _daemon(storage: Path, engine: str) -> Iterator[Path]:
    """A daemon on free ports with a state directory of its own; yields its control socket."""
    with (
        tempfile.TemporaryDirectory(prefix="twotrack-demo-") as state,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
    ):
        directory = Path(state)
        ready.bind(str(directory / "notify.sock"))
        ready.settimeout(START_TIMEOUT_S)
        with (directory / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "twotrack", "serve"],
                env=_environment(directory, storage, engine),
                stdout=log,
                stderr=log,
            )
        try:
            _await_ready(ready, process, directory / "log")
            yield directory / "control.sock"
        finally:
            _stop(process)


def _environment(directory: Path, storage: Path, engine: str) -> Mapping[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) and name not in ("TWOTRACK_CONFIG", "GOOGLE_APPLICATION_CREDENTIALS")
    }
    return inherited | {
        "AUDIO_STATE_PATH": str(directory),
        "AUDIO_STORAGE_PATH": str(storage),
        "AUDIO_CONTROL_SOCKET": str(directory / "control.sock"),
        "AUDIO_INPUT_LISTEN": "127.0.0.1:0",
        "AUDIO_OUTPUT_LISTEN": "127.0.0.1:0",
        "AUDIO_HTTP_LISTEN": "",
        "AUDIO_MERGE_ENGINE": engine,
        "AUDIO_LOG_FORMAT": "console",
        "NOTIFY_SOCKET": str(directory / "notify.sock"),
    }


def _await_ready(ready: socket.socket, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the daemon says that it is ready, as systemd would."""
    ready.settimeout(0.1)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            ready.recv(64)
        except TimeoutError:
            continue
        return
    lines = log.read_text().splitlines()
    raise TwotrackError(f"the demo's daemon did not start: {lines[-1] if lines else 'it said nothing'}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
