"""Options that several commands share."""

import json
from pathlib import Path
from typing import Any

import click

from twotrack import settings
from twotrack.client import Client
from twotrack.messages import parse_ssrc

Command = Any  # a function that click will make a command of


class Ssrc(click.ParamType[int]):
    """An SSRC, decimal or hexadecimal."""

    name = "ssrc"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        try:
            return parse_ssrc(value)
        except ValueError:
            self.fail(f"{value!r} is not an SSRC: give an integer of 32 bits, such as 123456 or 0x0001e240", param, ctx)


SSRC = Ssrc()
as_json: Command = click.option("--json", "is_json", is_flag=True, help="Print JSON.")
config_file: Command = click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file; default: the one that $TWOTRACK_CONFIG names."
)

control_socket_path: Command = click.option("--control-socket", metavar="PATH", help="The daemon's control socket.")


def to_daemon(command: Command) -> Command:
    """Give a command the options that find the daemon."""
    for option in (config_file, control_socket_path):
        command = option(command)
    return command


def connect(config: Path | None, control_socket: str | None) -> Client:
    """A client of the daemon that the options name."""
    return Client(settings.control_socket(config, control_socket))


def print_json(value: Any) -> None:
    """One JSON document: indented for a person, one line in a pipe."""
    indent = 2 if click.get_text_stream("stdout").isatty() else None
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))
