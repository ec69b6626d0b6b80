"""What systemd is told: readiness and the end.

Source: sd_notify(3).
"""

import os
import socket
from contextlib import suppress


def notify(message: str) -> None:
    """Send a message such as READY=1 to systemd; does nothing where nobody asked for it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.sendto(message.encode(), address)
