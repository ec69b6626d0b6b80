"""Options of the commands that read captures: which side is which, and which engine."""

import functools
from collections.abc import Callable
from typing import Any

import click

from twotrack.capture import Choice
from twotrack.cli.options import SSRC
from twotrack.merge import Engine

PORT = click.IntRange(1, 65_535)
engine_option = click.option(
    "--engine",
    "engine_name",
    type=click.Choice([str(engine) for engine in Engine]),
    help="How both sides become one file. Default: ffmpeg.",
)


def to_sides(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which side is which, as its argument `choice`."""

    @functools.wraps(command)
    def with_choice(
        *args: Any,
        input_port: int | None,
        output_port: int | None,
        input_ssrc: int | None,
        output_ssrc: int | None,
        **others: Any,
    ) -> Any:
        choice = Choice(input_port, output_port, input_ssrc, output_ssrc)
        if choice.has_ports and choice.has_ssrcs:
            raise click.UsageError("give ports or SSRCs, not both")
        if choice.is_one_side_twice:
            raise click.UsageError("input and output are the same: give each side its own port or SSRC")
        return command(*args, choice=choice, **others)

    for side, who in (("output", "AI"), ("input", "caller")):
        port_help, ssrc_help = f"UDP destination port of the {who}'s side.", f"SSRC of the {who}'s side."
        with_choice = click.option(f"--{side}-ssrc", type=SSRC, help=ssrc_help)(with_choice)
        with_choice = click.option(f"--{side}-port", type=PORT, help=port_help)(with_choice)
    return with_choice
