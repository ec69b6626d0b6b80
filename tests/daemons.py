"""A real daemon under test: its process, its sockets, and what to send to it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from twotrack.client import Client
from twotrack.keys import Address, parse_address

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 60


class Daemon:
    """`twotrack serve` on free ports, with its state under one directory.

    Args:
        state_path: Its state directory.
        settings: Environment names without AUDIO_, in small letters, and their values.
    """

    def __init__(self, state_path: Path, settings: dict[str, str]) -> None:
        self.state_path = state_path
        self.recordings = Path(settings.get("storage_path", state_path / "recordings"))
        self.spool = state_path / "spool"
        self.control_socket = state_path / "control.sock"
        self._settings = {
            "input_listen": "127.0.0.1:0",
            "output_listen": "127.0.0.1:0",
            "http_listen": "127.0.0.1:0",
            "state_path": str(state_path),
            "control_socket": str(self.control_socket),
        } | settings
        self.log = state_path.with_name("daemon.log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def environment(self) -> dict[str, str]:
        """What the process sees."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AUDIO_")}
        return inherited | {f"AUDIO_{name.upper()}": value for name, value in self._settings.items()}

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        self.state_path.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            path = self.state_path.with_name("notify.sock")
            path.unlink(missing_ok=True)
            ready.bind(str(path))
            ready.settimeout(START_TIMEOUT_S)
            environment = self.environment() | {"NOTIFY_SOCKET": str(path)}
            with self.log.open("a") as log:
                command = [sys.executable, "-m", "twotrack", "serve"]
                self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            assert ready.recv(64) == b"READY=1", self.log.read_text()
        status = self.request("status")
        self.input_address: Address = parse_address(status["input_address"])
        self.output_address: Address = parse_address(status["output_address"])
        self.http_address = status["http_address"]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End it as a power cut would end it."""
        self.process.kill()
        self.process.wait()

    def request(self, op: str, **members: Any) -> dict[str, Any]:
        """One request; raises RequestError if the daemon says no."""
        with Client(self.control_socket, timeout_s=90) as client:
            return client.request(op, **members)

    def send(self, side: str, *datagrams: bytes) -> None:
        """Send datagrams to a side's port at once."""
        address = self.input_address if side == "input" else self.output_address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, address)
