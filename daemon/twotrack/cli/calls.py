"""The commands that speak to a daemon, one for each op of the control socket."""

from pathlib import Path
from typing import Any

import click

from twotrack.cli.options import SSRC, as_json, connect, print_json, to_daemon
from twotrack.cli.output import escape, print_members, print_table


@click.command("open")
@click.argument("connection_id")
@click.option("--input-ssrc", type=SSRC, help="SSRC of the caller's RTP on the input port.")
@click.option("--output-ssrc", type=SSRC, help="SSRC of the AI's RTP on the output port.")
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="Kept in the report; may be given often.")
@to_daemon
@as_json
def open_command(
    connection_id: str,
    input_ssrc: int | None,
    output_ssrc: int | None,
    metadata: tuple[str, ...],
    config: Path | None,
    control_socket: str | None,
    is_json: bool,
) -> None:
    """Open the call CONNECTION_ID, or add SSRCs to it.

    Example: twotrack open call-1 --input-ssrc 0x1e240 --output-ssrc 654321
    """
    with connect(config, control_socket) as client:
        reply = client.request(
            "open",
            connection_id=connection_id,
            input_ssrc=input_ssrc,
            output_ssrc=output_ssrc,
            metadata=_pairs(metadata),
        )
    _print(reply, is_json)


def _pairs(metadata: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [item.partition("=") for item in metadata]
    if any(not separator for _, separator, _ in pairs):
        raise click.BadParameter("give NAME=VALUE", param_hint="--metadata")
    return {name: value for name, _, value in pairs} or None


@click.command("close")
@click.argument("connection_id")
@click.option("--side", type=click.Choice(["input", "output"]), help="Close one side only; default: both.")
@click.option("--wait", is_flag=True, help="Wait until the recording is stored, and show it.")
@to_daemon
@as_json
def close_command(
    connection_id: str,
    side: str | None,
    wait: bool,
    config: Path | None,
    control_socket: str | None,
    is_json: bool,
) -> None:
    """Close the call CONNECTION_ID: with its last side it is merged and stored.

    Example: twotrack close call-1 --wait
    """
    with connect(config, control_socket) as client:
        reply = client.request("close", connection_id=connection_id, side=side, wait=wait or None)
    _print(reply, is_json)


@click.command("status")
@to_daemon
@as_json
def status_command(config: Path | None, control_socket: str | None, is_json: bool) -> None:
    """Show how the daemon is: ports, calls, packets, drops, jobs, disk."""
    with connect(config, control_socket) as client:
        _print(client.request("status"), is_json)


@click.command("list")
@click.option("--state", help="Only calls of this state, such as open.")
@to_daemon
@as_json
def list_command(state: str | None, config: Path | None, control_socket: str | None, is_json: bool) -> None:
    """List the calls that the daemon knows."""
    with connect(config, control_socket) as client:
        reply = client.request("list", state=state)
    if is_json:
        print_json(reply)
        return
    columns = ("connection_id", "state", "references", "started_at", "input", "output")
    print_table(columns, [[*(row[name] for name in columns[:4]), *_received(row)] for row in reply["connections"]])


def _received(row: dict[str, Any]) -> list[int]:
    return [row["input"]["received"], row["output"]["received"]]


@click.command("show")
@click.argument("connection_id")
@to_daemon
@as_json
def show_command(connection_id: str, config: Path | None, control_socket: str | None, is_json: bool) -> None:
    """Show the call CONNECTION_ID, and its recording once it is stored."""
    with connect(config, control_socket) as client:
        _print(client.request("show", connection_id=connection_id), is_json)


@click.command("discard")
@click.argument("connection_id")
@to_daemon
@as_json
def discard_command(connection_id: str, config: Path | None, control_socket: str | None, is_json: bool) -> None:
    """Forget the call CONNECTION_ID and delete what was received. This can't be undone."""
    with connect(config, control_socket) as client:
        reply = client.request("discard", connection_id=connection_id)
    _print(reply or {"discarded": connection_id}, is_json)


@click.command("retry")
@click.argument("connection_id", required=False)
@to_daemon
@as_json
def retry_command(connection_id: str | None, config: Path | None, control_socket: str | None, is_json: bool) -> None:
    """Run failed finalisations again: of CONNECTION_ID, or all."""
    with connect(config, control_socket) as client:
        _print(client.request("retry", connection_id=connection_id), is_json)


@click.command("drain")
@to_daemon
@as_json
def drain_command(config: Path | None, control_socket: str | None, is_json: bool) -> None:
    """Let the daemon take no new call, finish its jobs and exit."""
    with connect(config, control_socket) as client:
        reply = client.request("drain")
    _print(reply or {"draining": True}, is_json)


@click.command("watch")
@to_daemon
@as_json
def watch_command(config: Path | None, control_socket: str | None, is_json: bool) -> None:
    """Print every change of state of any call, until interrupted."""
    with connect(config, control_socket) as client:
        for event in client.watch():
            if is_json:
                print_json(event)
            else:
                name = (event.get("recording") or {}).get("file") or {}
                detail = name.get("url") or event.get("error", {}).get("message", "")
                click.echo(f"{event['at']}  {event['state']:<10}  {event['connection_id']}  {escape(detail)}".rstrip())


def _print(reply: dict[str, Any], is_json: bool) -> None:
    if is_json:
        print_json(reply)
    else:
        print_members(_flat(reply))


def _flat(members: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested members as dotted names, an object without members as a dash."""
    rows: list[tuple[str, Any]] = []
    for name, value in members.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.") or [(prefix + name, None)]
        elif isinstance(value, list):
            rows.append((prefix + name, ", ".join(str(item) for item in value) or None))
        else:
            rows.append((prefix + name, str(value).lower() if isinstance(value, bool) else value))
    return rows
