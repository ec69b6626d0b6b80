"""Progress of long work, on a terminal only."""

import sys
from types import TracebackType
from typing import Any, Self


class Progress:
    """A bar on standard error; nothing where that is no terminal.

    Args:
        title: What goes on.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self._bar = RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: float, total: float) -> None:
        """So much of so much is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)

    def notify(self, level: str, _: str, fields: dict[str, Any]) -> None:
        """Take the steps that `finalise.render` tells of."""
        if level == "progress":
            self.update(fields["done_s"], fields["total_s"])
