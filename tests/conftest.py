"""Fixtures: a real daemon in a process of its own, and the captures that others made."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from daemons import Daemon

CAPTURES = Path(__file__).parents[2] / "shared" / "captures"


@pytest.fixture
def captures() -> Path:
    """Where the captures lie that no one here wrote."""
    if not CAPTURES.is_dir():
        pytest.skip(f"the captures are not at {CAPTURES}: they are not part of the project")
    return CAPTURES


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons with given settings; all are ended after the test."""
    with ExitStack() as stack:

        def start(**settings: str) -> Daemon:
            return stack.enter_context(Daemon(tmp_path / "state", settings))

        yield start


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with default settings on free ports."""
    return start_daemon()
