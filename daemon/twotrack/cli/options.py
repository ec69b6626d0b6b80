"""Options that several commands share."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from twotrack import settings
from twotrack.client import Client
from twotrack.messages import parse_ssrc

FC = TypeVar("FC", bound=Callable[..., Any])  # what click decorates


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
as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON.")


def config_file(command: FC) -> FC:
    """Give a command the option that names the configuration."""
    text = "TOML file; default: the one that $TWOTRACK_CONFIG names."
    return click.option("--config", type=click.Path(path_type=Path), help=text)(command)


def to_daemon(command: FC) -> FC:
    """Give a command the options that find the daemon."""
    text = "The daemon's control socket."
    return click.option("--control-socket", metavar="PATH", help=text)(config_file(command))


def connect(config: Path | None, control_socket: str | None) -> Client:
    """A client of the daemon that the options name."""
    return Client(settings.control_socket(config, control_socket))


def print_json(value: Any) -> None:
    """One JSON document: indented for a person, one line in a pipe."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))
