"""The table of settings: each key's name, default, parser, and what it means.

Every value is text, wherever it was set, so all places take the same.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from twotrack.codecs import Codec

PREFIX = "AUDIO_"
MAX_DURATION_S = 10 * 365 * 86_400
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+|\d+(?:\.\d+)?")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "": 1}


class Address(NamedTuple):
    """A numeric host and a port; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _boolean(text: str) -> bool:
    return {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}[
        text.lower()
    ]


def _choice(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return parse


def _duration(least: float = 0.0, most: float = MAX_DURATION_S) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not _DURATION.fullmatch(text):
            raise ValueError
        seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
        if not least <= seconds <= most:
            raise ValueError
        return seconds

    return parse


def parse_address(text: str) -> Address:
    """Read host:port, [::1]:5004 or localhost:port; raises ValueError."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]")))
    else:
        host = str(ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host))
    return Address(host, int(port))


def _payload_types(text: str) -> dict[int, Codec]:
    types = {}
    for item in text.split(","):
        number, _, name = item.partition("=")
        types[_integer(0, 127)(number.strip())] = Codec(name.strip())
    return types


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(item.strip()) for item in text.split(","))


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError
        return int(text)

    return parse


def _percent(text: str) -> float:
    if not text.endswith("%") or not 0 < float(text[:-1]) <= 100:
        raise ValueError
    return float(text[:-1])


def _absolute(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # ~somebody who has no home here
        raise ValueError from error


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError
    return text


class Key(NamedTuple):
    """One setting.

    Args:
        name: As in the TOML file.
        default: Its text; None: unset, or worked out from the environment.
        parse: From text to value; raises ValueError or KeyError.
        takes: What it takes, for error messages.
        help: What it means, for --help and documents.
        shown_default: For documents, where the default is worked out.
    """

    name: str
    default: str | None
    parse: Callable[[str], Any]
    takes: str
    help: str
    shown_default: str = ""

    @property
    def variable(self) -> str:
        """Its environment variable."""
        upper = self.name.upper()
        return upper if upper.startswith("GOOGLE_") else PREFIX + upper

    @property
    def flag(self) -> str:
        """Its command-line flag."""
        return "--" + self.name.replace("_", "-")


_A_DURATION = "a duration such as 30m, 10s, 250ms or seconds"
_AN_ADDRESS = "host:port with a numeric host, such as 127.0.0.1:5004 or [::1]:5004"
_POSITIVE = _duration(least=0.01)

KEYS = (
    Key(
        "cache_enabled",
        "true",
        _boolean,
        "true or false",
        "false: ports and control socket answer, nothing is recorded",
    ),
    Key(
        "storage_type",
        "local",
        _choice("local", "gcs", "s3", "azure"),
        "local, gcs, s3 or azure",
        "kind of storage; this version stores to local",
    ),
    Key(
        "storage_path",
        None,
        _text,
        "a directory, or bucket/prefix",
        "a directory (local), or a bucket, optionally bucket/prefix",
        "recordings under the state directory",
    ),
    Key("storage_endpoint", None, _text, "a URL", "another endpoint for an object store"),
    Key(
        "google_application_credentials",
        None,
        _text,
        "the path of a service account's JSON file",
        "service account for Google Cloud Storage",
    ),
    Key(
        "input_listen",
        "127.0.0.1:5004",
        parse_address,
        _AN_ADDRESS,
        "where the caller's RTP arrives; port 0: any free port",
    ),
    Key(
        "output_listen",
        "127.0.0.1:5006",
        parse_address,
        _AN_ADDRESS,
        "where the AI's RTP arrives; port 0: any free port",
    ),
    Key(
        "http_listen",
        "127.0.0.1:9464",
        parse_address,
        _AN_ADDRESS + ", or nothing",
        "metrics and health; empty: no HTTP",
    ),
    Key(
        "control_socket",
        None,
        _absolute,
        "a path",
        "the control socket, mode 0660",
        "$RUNTIME_DIRECTORY/control.sock, else $XDG_RUNTIME_DIR/twotrack/control.sock, else under the state directory",
    ),
    Key(
        "state_path",
        None,
        _absolute,
        "a directory",
        "spool, jobs and default recordings",
        "$STATE_DIRECTORY, else $XDG_STATE_HOME/twotrack, else ~/.local/state/twotrack",
    ),
    Key(
        "merge_engine",
        "ffmpeg",
        _choice("ffmpeg", "lossless"),
        "ffmpeg or lossless",
        "how both sides become one file; lossless: without transcoding",
    ),
    Key("ffmpeg_timeout", "30s", _POSITIVE, _A_DURATION, "FFmpeg is ended after this long without progress"),
    Key(
        "tail_padding", "2s", _duration(most=3600), _A_DURATION + ", 1h at most", "silence after the conversation's end"
    ),
    Key("retention", "30m", _POSITIVE, _A_DURATION, "a connection silent this long and not closed is abandoned"),
    Key("cleanup_interval", "10m", _POSITIVE, _A_DURATION, "how often abandoned connections are looked for"),
    Key(
        "flush_interval", "1s", _POSITIVE, _A_DURATION, "at most this much of a call is lost when the process is killed"
    ),
    Key("keep_channels", "false", _boolean, "true or false", "also store the left and right files"),
    Key(
        "payload_types",
        None,
        _payload_types,
        "pairs such as 111=opus,0=pcmu,8=pcma",
        "codecs by payload type",
        "96-127 are Opus, 0 PCMU, 8 PCMA",
    ),
    Key(
        "allowed_sources",
        None,
        _networks,
        "networks such as 10.0.0.0/8,192.0.2.7/32",
        "who may send RTP; required unless both ports are on loopback",
    ),
    Key("max_connections", "10000", _integer(1, 1_000_000), "a whole number from 1", "connections open at once"),
    Key(
        "spool_limit",
        "90%",
        _percent,
        "a percentage such as 90%",
        "of the spool's file system; past it new connections are refused",
    ),
    Key(
        "database_url",
        None,
        _text,
        "a Postgres URL",
        "where durable jobs live; not in this version",
        "the state directory",
    ),
    Key("webhook_url", None, _text, "a URL", "terminal events as HTTP POST; not in this version"),
    Key("webhook_secret", None, _text, "a secret", "signs the webhook; not in this version"),
    Key("srtp_keys_file", None, _text, "a path", "SRTP keys by SSRC; not in this version"),
    Key(
        "log_level",
        "info",
        _choice("debug", "info", "warning", "error"),
        "debug, info, warning or error",
        "least level that is logged",
    ),
    Key(
        "log_format",
        None,
        _choice("console", "json"),
        "console or json",
        "how log lines look",
        "console on a terminal, else json",
    ),
)
