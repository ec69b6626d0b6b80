"""The command line: parse, call, print. Each command's module is imported when it is used."""

import importlib
from typing import Any

import click

from twotrack import __version__
from twotrack.errors import ConfigurationError, DaemonUnreachableError, TwotrackError

EXIT_UNREACHABLE = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_CONFIGURATION = 78  # EX_CONFIG
COMMANDS = {
    "serve": "serve",
    "open": "calls",
    "close": "calls",
    "status": "calls",
    "list": "calls",
    "show": "calls",
    "discard": "calls",
    "retry": "calls",
    "drain": "calls",
    "watch": "calls",
    "config": "config",
    "render": "render",
    "replay": "replay",
    "demo": "demo",
}


class Commands(click.Group):
    """Finds commands by name, and turns errors into a sentence and an exit code."""

    def list_commands(self, _: click.Context) -> list[str]:
        """In the order of a call's life."""
        return list(COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"twotrack.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TwotrackError as error:
            raise Refusal(str(error), _exit_code(error)) from error


class Refusal(click.ClickException):
    """A sentence on standard error, and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it off the instance


def _exit_code(error: TwotrackError) -> int:
    if isinstance(error, ConfigurationError):
        return EXIT_CONFIGURATION
    return EXIT_UNREACHABLE if isinstance(error, DaemonUnreachableError) else 1


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="twotrack", message="%(prog)s %(version)s")
def main() -> None:
    """Record both sides of a call as two tracks of one file.

    A gateway mirrors the RTP of each side to one of two UDP ports; a message on a control socket
    closes the call; both sides become one stereo Ogg Opus file: left the caller, right the AI.

    \b
    Try it:            twotrack demo
    Run the daemon:    twotrack serve --config config/twotrack.toml
    One call by hand:  twotrack open call-1 --input-ssrc 0x1e240 --output-ssrc 0x9fbf1
                       twotrack close call-1 --wait
    """
