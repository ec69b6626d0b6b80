"""What can be set, read from everywhere, checked once.

Built-in default < TOML file < environment < command-line flag. An error is one line that names the
place, the key, what it got and what it takes. Light to import: clients read one key.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from twotrack.codecs import Codec
from twotrack.errors import ConfigurationError
from twotrack.keys import KEYS, PREFIX, Address, Key, Network

CONFIG_VARIABLE = "TWOTRACK_CONFIG"


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, checked; durations in seconds. what each means stands in `keys.KEYS`."""

    cache_enabled: bool
    storage_type: str
    storage_path: str
    storage_endpoint: str | None
    google_application_credentials: str | None
    input_listen: Address
    output_listen: Address
    http_listen: Address | None
    control_socket: Path
    state_path: Path
    merge_engine: str
    ffmpeg_timeout: float
    tail_padding: float
    retention: float
    cleanup_interval: float
    flush_interval: float
    keep_channels: bool
    payload_types: Mapping[int, Codec] | None
    allowed_sources: tuple[Network, ...] | None
    max_connections: int
    spool_limit: float
    database_url: str | None
    webhook_url: str | None
    webhook_secret: str | None
    srtp_keys_file: str | None
    log_level: str
    log_format: str | None


class Raw(NamedTuple):
    """A value as text, and where it was set: "default" or words for an error."""

    text: str
    place: str


_BY_NAME = {key.name: key for key in KEYS}
_LATER = ("storage_endpoint", "database_url", "webhook_url", "webhook_secret", "srtp_keys_file")


def load(
    config: Path | None = None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read and check all settings.

    Args:
        config: A TOML file; None: the one that $TWOTRACK_CONFIG names, if any.
        flags: Text by key name, from the command line.
        environ: Environment variables; None: this process's.

    Raises:
        ConfigurationError: One line that names the place, the key, what it got and what it takes.
    """
    environ = os.environ if environ is None else environ
    raw = gather(config, flags or {}, environ)
    values = {key.name: _value(key, raw.get(key.name)) for key in KEYS}
    values["state_path"] = values["state_path"] or _default_state_path(environ)
    values["storage_path"] = values["storage_path"] or str(values["state_path"] / "recordings")
    values["control_socket"] = values["control_socket"] or _default_control_socket(environ, values["state_path"])
    settings = Settings(**values)
    _check_together(settings)
    return settings


def control_socket(config: Path | None, flag: str | None, environ: Mapping[str, str] | None = None) -> Path:
    """The control socket alone, for clients: what else is set does not concern them.

    Raises:
        ConfigurationError: The configuration can't be read.
    """
    environ = os.environ if environ is None else environ
    raw = gather(config, {} if flag is None else {"control_socket": flag}, environ, is_strict=False)
    path = _value(_BY_NAME["control_socket"], raw.get("control_socket"))
    state_path = _value(_BY_NAME["state_path"], raw.get("state_path")) or _default_state_path(environ)
    return path or _default_control_socket(environ, state_path)


def gather(
    config: Path | None, flags: Mapping[str, str], environ: Mapping[str, str], *, is_strict: bool = True
) -> dict[str, Raw]:
    """Each key's winning text and its place: file, then environment, then flags.

    Args:
        config: As for `load`.
        flags: As for `load`.
        environ: As for `load`.
        is_strict: Refuse unknown names.
    """
    if config is None and environ.get(CONFIG_VARIABLE):
        config = Path(environ[CONFIG_VARIABLE])
    raw = {} if config is None else _read_file(config, is_strict=is_strict)
    variables = {key.variable: key.name for key in KEYS}
    for variable, text in environ.items():
        if variable in variables:
            raw[variables[variable]] = Raw(text, f"the variable {variable}")
        elif variable.startswith(PREFIX) and is_strict:
            raise ConfigurationError(f"the variable {variable} is unknown{_suggest(variable, variables)}")
    raw.update({name: Raw(text, _BY_NAME[name].flag) for name, text in flags.items()})
    return raw


def _read_file(path: Path, *, is_strict: bool) -> dict[str, Raw]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the file {path} can't be read: {error.strerror}") from error
    except ValueError as error:  # bad UTF-8, or tomllib.TOMLDecodeError with its line and column
        raise ConfigurationError(f"the file {path} is not TOML: {error}") from error
    raw = {}
    for name, value in table.items():
        if name in _BY_NAME:
            raw[name] = Raw(_toml_text(path, name, value), f"the file {path}, key {name}")
        elif is_strict:
            raise ConfigurationError(f"the file {path} has an unknown key {name}{_suggest(name, _BY_NAME)}")
    return raw


def _toml_text(path: Path, name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    shown = _shown(name, json.dumps(value, default=str))
    raise ConfigurationError(f"the file {path}, key {name}: got {shown}, takes {_BY_NAME[name].takes}")


def _suggest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; remove it"


def _value(key: Key, raw: Raw | None) -> Any:
    text = key.default if raw is None else raw.text.strip()
    if text is None or (not text and (key.default is None or key.name == "http_listen")):
        return None
    try:
        return key.parse(text)
    except (ValueError, KeyError, OverflowError):
        place = raw.place if raw else f"the default of {key.name}"
        shown = _shown(key.name, json.dumps(text, ensure_ascii=False))
        raise ConfigurationError(f"{place}: got {shown}, takes {key.takes}") from None


def _shown(name: str, text: str) -> str:
    """A value as errors may show it."""
    return "a secret" if "secret" in name else text


def _default_state_path(environ: Mapping[str, str]) -> Path:
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"]) / "twotrack"
    return Path(environ.get("HOME") or "~").expanduser() / ".local/state/twotrack"


def _default_control_socket(environ: Mapping[str, str], state_path: Path) -> Path:
    if environ.get("RUNTIME_DIRECTORY"):
        return Path(environ["RUNTIME_DIRECTORY"].split(":")[0]) / "control.sock"
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "twotrack/control.sock"
    return state_path / "control.sock"


def _check_together(settings: Settings) -> None:
    """What no key can tell alone."""
    if settings.storage_type != "local":
        raise ConfigurationError(
            f"AUDIO_STORAGE_TYPE {settings.storage_type} is not supported by this version; set it to local"
        )
    for name in _LATER:
        if getattr(settings, name) is not None:
            raise ConfigurationError(f"{_BY_NAME[name].variable} is not supported by this version; leave it unset")
    if settings.input_listen == settings.output_listen and settings.input_listen.port:
        raise ConfigurationError(
            f"AUDIO_INPUT_LISTEN and AUDIO_OUTPUT_LISTEN are both {settings.input_listen}: the port tells the side,"
            " so give them two"
        )
    for key, address in (("input_listen", settings.input_listen), ("output_listen", settings.output_listen)):
        if settings.allowed_sources is None and not address.is_loopback:
            raise ConfigurationError(
                f"{_BY_NAME[key].variable} is {address}, which others can reach:"
                " name who may send in AUDIO_ALLOWED_SOURCES"
            )
