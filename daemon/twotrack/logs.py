"""Log records: structured, as JSON or for a terminal; a library's user keeps their own handlers."""

import logging
import os
import sys
from typing import Any

import structlog


def get_logger() -> Any:
    """The package's logger: structlog in front of the standard library's `twotrack` logger."""
    return structlog.wrap_logger(
        logging.getLogger("twotrack"),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def configure(level: str, log_format: str | None) -> None:
    """Write log records to standard error.

    Args:
        level: debug, info, warning or error.
        log_format: "console" or "json"; None: console on a terminal.
    """
    is_console = log_format == "console" or (log_format is None and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if is_console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()]
    if is_console:
        shared.append(structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False))
    elif "JOURNAL_STREAM" not in os.environ:  # the journal stamps by itself
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    logger = logging.getLogger("twotrack")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
