"""Tables for people: drawn on a terminal, tab-separated in a pipe."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


def escape(value: object) -> str:
    """Text that can't move a terminal's cursor; None is a dash."""
    return "-" if value is None else str(value).translate(CONTROL_CHARACTERS)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print rows under their columns' names."""
    texts = [[escape(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        click.echo("\t".join(columns))
        for row in texts:
            click.echo("\t".join(row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in texts:
        table.add_row(*(Text(text) for text in row))
    Console().print(table)


def print_members(members: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, a line each."""
    rows = [(name, escape(value)) for name, value in members]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
