"""Datagrams sent onto a daemon's ports, each at its time: what `replay` and `demo` share."""

import socket
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, sleep
from typing import NamedTuple

from twotrack.errors import TwotrackError
from twotrack.keys import Address
from twotrack.side import Side

LONGEST_NAP_S = 0.25  # so that progress is seen in a pause


class Scheduled(NamedTuple):
    """A datagram, the port it goes to, and when, in seconds from the start."""

    due_s: float
    side: Side
    datagram: bytes


def play(
    schedule: Sequence[Scheduled],
    addresses: Mapping[Side, Address],
    *,
    speed: float = 1.0,
    on_progress: Callable[[float, float], None],
) -> None:
    """Send a schedule in real time, or `speed` times faster.

    Args:
        schedule: In the order of its times.
        addresses: Where each side goes.
        speed: How much faster than real time.
        on_progress: Told how many seconds of how many are sent.

    Raises:
        TwotrackError: A datagram can't be sent.
    """
    total = schedule[-1].due_s if schedule else 0.0
    senders = {side: _connect(address) for side, address in addresses.items()}
    try:
        start = monotonic()
        for due_s, side, datagram in schedule:
            while (wait := start + due_s / speed - monotonic()) > 0:
                sleep(min(wait, LONGEST_NAP_S))
                on_progress(min(due_s, (monotonic() - start) * speed), total)
            senders[side].send(datagram)
    except OSError as error:
        raise TwotrackError(f"a datagram can't be sent: {error.strerror}") from error
    finally:
        for sender in senders.values():
            sender.close()


def _connect(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.connect(address)
    return sender
