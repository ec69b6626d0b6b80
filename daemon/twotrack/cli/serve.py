"""`twotrack serve`."""

from pathlib import Path
from typing import Any

import click

from twotrack import keys, settings
from twotrack.cli.options import config_file


def _with_settings(command: Any) -> Any:
    """A flag for each setting."""
    for key in reversed(keys.KEYS):
        default = key.shown_default or key.default or "unset"
        text = f"{key.help}; {key.takes}. Default: {default}."
        command = click.option(key.flag, key.name, metavar="VALUE", help=text[0].upper() + text[1:])(command)
    return command


@click.command("serve")
@config_file
@_with_settings
def serve_command(config: Path | None, **flags: str | None) -> None:
    """Run the daemon in the foreground, until SIGTERM or `twotrack drain`.

    Each setting is read from its flag, else from its environment variable (AUDIO_ and the name in
    capitals), else from the TOML file.
    """
    given = {name: text for name, text in flags.items() if text is not None}
    checked = settings.load(config, given)
    from twotrack import logs, server

    logs.configure(checked.log_level, checked.log_format)
    server.run(checked)
