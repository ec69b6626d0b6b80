"""`twotrack replay`: a capture's two sides onto a daemon's ports, in the capture's own timing."""

import re
from pathlib import Path

import click

from twotrack.capture import CapturedCall, Choice, read_call
from twotrack.cli.options import as_json, connect, print_json, to_daemon
from twotrack.cli.picture import print_recording
from twotrack.cli.progress import Progress
from twotrack.cli.sides import to_sides
from twotrack.client import Client
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES
from twotrack.errors import CaptureError
from twotrack.keys import parse_address
from twotrack.playback import Scheduled, play
from twotrack.side import Side


@click.command("replay")
@click.argument("captures", nargs=-1, required=True, metavar="CAPTURE...", type=click.Path(path_type=Path))
@click.option(
    "--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, help="How much faster than real time."
)
@click.option("--id", "connection_id", help="Connection id; default: made of the capture's name.")
@to_sides
@to_daemon
@as_json
def replay_command(
    captures: tuple[Path, ...],
    speed: float,
    connection_id: str | None,
    config: Path | None,
    control_socket: str | None,
    is_json: bool,
    choice: Choice,
) -> None:
    """Play the call in CAPTURE onto a daemon's ports, in its own timing; open and close the call.

    Example: twotrack replay call.pcapng --id call-1
    """
    call = read_call(captures, choice, DEFAULT_PAYLOAD_TYPES)
    schedule = _schedule(call)
    name = connection_id or re.sub(r"[^A-Za-z0-9._=@:+~-]", "-", f"replay-{captures[0].stem}")[:200]
    with connect(config, control_socket) as client, Progress(f"Playing {name}") as progress:
        status = client.request("status")
        addresses = {side: parse_address(status[f"{side}_address"]) for side in Side}
        _open(client, name, call)
        try:
            play(schedule, addresses, speed=speed, on_progress=progress.update)
        finally:
            reply = client.request("close", connection_id=name, wait=True)
    if is_json:
        print_json(reply["recording"])
    else:
        print_recording(reply["recording"], None)


def _schedule(call: CapturedCall) -> list[Scheduled]:
    """Both sides' datagrams in the order of their arrival."""
    arrivals = [
        (received.arrival_ns, side, datagram)
        for side in Side
        for received, datagram in zip(call.sides[side], call.datagrams[side], strict=True)
    ]
    if not arrivals:
        raise CaptureError("the capture holds no RTP of its sides")
    arrivals.sort(key=lambda arrival: arrival[0])
    first = arrivals[0][0]
    return [Scheduled((arrival_ns - first) / 1e9, side, datagram) for arrival_ns, side, datagram in arrivals]


def _open(client: Client, connection_id: str, call: CapturedCall) -> None:
    """Open the call and map every SSRC that it will have."""
    client.request("open", connection_id=connection_id)
    for side in Side:
        for ssrc in dict.fromkeys(received.packet.ssrc for received in call.sides[side]):
            client.request("open", connection_id=connection_id, **{f"{side}_ssrc": ssrc})
