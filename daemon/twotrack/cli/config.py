"""`twotrack config check` and `twotrack config show`."""

import os
from pathlib import Path
from typing import Any

import click

from twotrack import keys, settings
from twotrack.cli.options import as_json, config_file, print_json
from twotrack.cli.output import print_table


@click.group("config")
def config_command() -> None:
    """Check or show the settings."""


@config_command.command("check")
@config_file
@as_json
def check(config: Path | None, is_json: bool) -> None:
    """Exit with 0 if the daemon would start with these settings, else say what is wrong (exit 78)."""
    settings.load(config)
    if is_json:
        print_json({"ok": True})
    else:
        click.echo("The settings are good.")


@config_command.command("show")
@config_file
@as_json
def show(config: Path | None, is_json: bool) -> None:
    """Show every setting, its value and where it comes from; secrets are hidden."""
    checked = settings.load(config)
    raw = settings.gather(config, {}, os.environ)
    rows = []
    for key in keys.KEYS:
        place = raw[key.name].place if key.name in raw else "default"
        rows.append({"key": key.name, "value": _shown(key.name, getattr(checked, key.name)), "source": place})
    if is_json:
        print_json({row["key"]: {"value": row["value"], "source": row["source"]} for row in rows})
    else:
        print_table(("key", "value", "source"), [tuple(row.values()) for row in rows])


def _shown(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if "secret" in name:
        return "set"
    if isinstance(value, dict):
        return ",".join(f"{number}={codec}" for number, codec in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and not isinstance(value, keys.Address):
        return ",".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
