"""Tests of settings and keys: every key from every place, and what each refusal says."""

import difflib
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotrack import settings
from twotrack.codecs import Codec
from twotrack.errors import ConfigurationError
from twotrack.keys import KEYS, Address, parse_address

HOME = {"HOME": "/home/someone"}
NOT_YET = {"storage_endpoint", "database_url", "webhook_url", "webhook_secret", "srtp_keys_file"}
GOOD = {
    "cache_enabled": ("false", False),
    "storage_type": ("local", "local"),
    "storage_path": ("/srv/calls", "/srv/calls"),
    "google_application_credentials": ("/etc/key.json", "/etc/key.json"),
    "input_listen": ("[::1]:6004", Address("::1", 6004)),
    "output_listen": ("localhost:0", Address("127.0.0.1", 0)),
    "http_listen": ("127.0.0.1:80", Address("127.0.0.1", 80)),
    "control_socket": ("/run/a.sock", Path("/run/a.sock")),
    "state_path": ("/var/lib/a", Path("/var/lib/a")),
    "merge_engine": ("lossless", "lossless"),
    "ffmpeg_timeout": ("2m", 120.0),
    "tail_padding": ("0", 0.0),
    "retention": ("1h30m", 5400.0),
    "cleanup_interval": ("250ms", 0.25),
    "flush_interval": ("0.5", 0.5),
    "keep_channels": ("yes", True),
    "payload_types": ("111=opus, 0=pcmu,8=pcma", {111: Codec.OPUS, 0: Codec.PCMU, 8: Codec.PCMA}),
    "allowed_sources": ("10.0.0.0/8, fd00::/8", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
    "max_connections": ("7", 7),
    "spool_limit": ("12.5%", 12.5),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
}
BAD = {
    "cache_enabled": ["maybe", "2", ""],
    "storage_type": ["ftp", "LOCAL", ""],
    "input_listen": [
        "5004",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "example.org:5004",
        "[::1",
        "::1:5004",
        ":5004",
        "",
    ],
    "http_listen": ["9464", "0.0.0.0:x", "127.0.0.1:-1", "127.0.0.1:٣"],
    "merge_engine": ["sox", ""],
    "ffmpeg_timeout": ["0", "-1s", "ten", "1w", "30 s", "1e3", "99999d", "", "0s"],
    "tail_padding": ["2h", "-1", "nan", "inf", ""],
    "retention": ["0", "30min", "m", "1h-30m"],
    "keep_channels": ["ja"],
    "payload_types": ["opus", "111", "111=mp3", "128=opus", "-1=opus", "111=opus,", "x=opus"],
    "allowed_sources": ["everyone", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/8,"],
    "max_connections": ["0", "-1", "1.5", "many", "1_000", "1000001", ""],
    "spool_limit": ["90", "0%", "101%", "%", "nan%", "half"],
    "log_level": ["trace", "INFO"],
    "log_format": ["xml"],
    "control_socket": ["~no-such-user/control.sock"],
    "state_path": ["~no-such-user"],
}
all_good = pytest.mark.parametrize(("name", "text", "value"), [(name, *pair) for name, pair in GOOD.items()])
all_bad = pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])


def _variable(name):
    return name.upper() if name.startswith("google") else "AUDIO_" + name.upper()


def _load(environ=None, config=None, **flags):
    return settings.load(config, flags, HOME | (environ or {}))


def _refusal(*arguments, **named):
    """The one line of a refusal to start."""
    with pytest.raises(ConfigurationError) as refused:
        _load(*arguments, **named)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def _toml(tmp_path, text):
    path = tmp_path / "twotrack.toml"
    path.write_text(text)
    return path


def test_every_key_is_tried_here():
    """The tables above name every key that can be set."""
    assert {key.name for key in KEYS} == GOOD.keys() | NOT_YET


def test_defaults_are_those_of_the_contract():
    """Without anything set, the defaults are the documented ones."""
    loaded = _load()
    assert (loaded.cache_enabled, loaded.storage_type, loaded.merge_engine) == (True, "local", "ffmpeg")
    assert (loaded.input_listen, loaded.output_listen) == (("127.0.0.1", 5004), ("127.0.0.1", 5006))
    assert loaded.http_listen == ("127.0.0.1", 9464)
    assert (loaded.ffmpeg_timeout, loaded.tail_padding, loaded.retention) == (30, 2, 1800)
    assert (loaded.cleanup_interval, loaded.flush_interval, loaded.spool_limit) == (600, 1, 90)
    assert (loaded.max_connections, loaded.keep_channels, loaded.log_level) == (10_000, False, "info")
    assert loaded.payload_types is loaded.allowed_sources is loaded.log_format is None


@all_good
def test_every_key_from_the_environment(name, text, value):
    """Each key is read from its environment variable."""
    assert getattr(_load({_variable(name): text}), name) == value


@all_good
def test_every_key_from_the_file(tmp_path, name, text, value):
    """Each key is read from the TOML file, as text."""
    assert getattr(_load(config=_toml(tmp_path, f'{name} = "{text}"')), name) == value


@all_good
def test_every_key_from_a_flag(name, text, value):
    """Each key is read from the command line."""
    assert getattr(_load(**{name: text}), name) == value


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("keep_channels = true", "keep_channels", True),
        ("cache_enabled = false", "cache_enabled", False),
        ("max_connections = 12", "max_connections", 12),
        ("tail_padding = 1.5", "tail_padding", 1.5),
        ("retention = 90", "retention", 90),
        ('allowed_sources = ["10.0.0.0/8"]', "allowed_sources", (ip_network("10.0.0.0/8"),)),
        ('payload_types = ["111=opus", "0=pcmu"]', "payload_types", {111: Codec.OPUS, 0: Codec.PCMU}),
    ],
)
def test_the_file_may_use_its_own_types(tmp_path, line, name, value):
    """TOML's booleans, numbers and lists mean what their text would."""
    assert getattr(_load(config=_toml(tmp_path, line)), name) == value


def test_flag_before_environment_before_file(tmp_path):
    """A flag wins over the environment, which wins over the file, which wins over the default."""
    config = _toml(tmp_path, 'retention = "1s"\ntail_padding = "1s"\nflush_interval = "1s"\ncleanup_interval = "1s"')
    environ = {"AUDIO_RETENTION": "2s", "AUDIO_TAIL_PADDING": "2s"}
    loaded = _load(environ, config, retention="3s")
    assert (loaded.retention, loaded.tail_padding, loaded.flush_interval) == (3, 2, 1)


def test_the_file_may_be_named_by_the_environment(tmp_path):
    """$TWOTRACK_CONFIG names the file, unless a flag names another."""
    named, other = tmp_path / "a.toml", tmp_path / "b.toml"
    named.write_text("retention = 1")
    other.write_text("retention = 2")
    assert _load({"TWOTRACK_CONFIG": str(named)}).retention == 1
    assert _load({"TWOTRACK_CONFIG": str(named)}, other).retention == 2


@all_bad
def test_a_bad_value_in_the_environment(name, text):
    """A refusal names the variable, what it got and what it takes."""
    refusal = _refusal({_variable(name): text})
    assert refusal.startswith(f"the variable {_variable(name)}: got ")
    assert f'got "{text}"' in refusal
    assert ", takes " in refusal


@all_bad
def test_a_bad_value_in_the_file(tmp_path, name, text):
    """A refusal names the file, the key, what it got and what it takes."""
    path = _toml(tmp_path, f'{name} = "{text}"')
    assert _refusal(config=path).startswith(f'the file {path}, key {name}: got "{text}", takes ')


@all_bad
def test_a_bad_value_of_a_flag(name, text):
    """A refusal names the flag, what it got and what it takes."""
    assert _refusal(**{name: text}).startswith(f'--{name.replace("_", "-")}: got "{text}", takes ')


@pytest.mark.parametrize(
    "line", ["retention = {a = 1}", "retention = [1, 2]", "retention = 1979-05-27", "retention = []"]
)
def test_a_value_of_a_type_that_means_nothing(tmp_path, line):
    """A table, a list of numbers and a date are refused by file and key."""
    refusal = _refusal(config=_toml(tmp_path, line))
    assert "key retention: got " in refusal
    assert "takes a duration" in refusal


@pytest.mark.parametrize("name", ["AUDIO_RETENTOIN", "AUDIO_INPUT_LISTN", "AUDIO_STORAGETYPE"])
def test_a_misspelt_variable_is_suggested(name):
    """An unknown AUDIO_ variable is refused, with the nearest one that exists."""
    refusal = _refusal({name: "1"})
    assert f"the variable {name} is unknown" in refusal
    assert f"did you mean {difflib.get_close_matches(name, [key.variable for key in KEYS], 1)[0]}?" in refusal


def test_an_unknown_variable_without_a_neighbour():
    """An AUDIO_ variable that is like none is to be removed; others are none of our business."""
    assert "remove it" in _refusal({"AUDIO_XYZZY": "1"})
    assert _load({"PULSE_SERVER": "x", "XAUDIO_RETENTION": "x"}).retention == 1800


def test_a_misspelt_key_is_suggested(tmp_path):
    """An unknown key of the file is refused by file and key, with the nearest one that exists."""
    path = _toml(tmp_path, "retension = 1")
    assert _refusal(config=path) == f"the file {path} has an unknown key retension; did you mean retention?"


def test_a_key_within_a_table_is_unknown(tmp_path):
    """A table in the file is an unknown key too."""
    assert "unknown key twotrack" in _refusal(config=_toml(tmp_path, "[twotrack]\nretention = 1"))


@pytest.mark.parametrize("text", [b"retention =", b"a = 1\na = 2", b"\xff\xfe"])
def test_a_file_that_is_no_toml(tmp_path, text):
    """A file that is no TOML, or no UTF-8, is refused by name."""
    path = tmp_path / "twotrack.toml"
    path.write_bytes(text)
    assert _refusal(config=path).startswith(f"the file {path} is not TOML: ")


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read(tmp_path, name):
    """A missing file is refused by name and reason, also if the environment names it."""
    path = tmp_path / name
    assert _refusal(config=path).startswith(f"the file {path} can't be read: ")
    assert str(path) in _refusal({"TWOTRACK_CONFIG": str(path)})


@pytest.mark.parametrize("place", ["environment", "file", "flag"])
def test_a_secret_is_never_shown(tmp_path, place):
    """A secret's text is in no refusal, wherever it was set and whatever is wrong with it."""
    secret = "hunter2\0"
    refusals = {
        "environment": lambda: _refusal({"AUDIO_WEBHOOK_SECRET": secret}),
        "file": lambda: _refusal(config=_toml(tmp_path, 'webhook_secret = "hunter2\\u0000"')),
        "flag": lambda: _refusal(webhook_secret=secret),
    }
    refusal = refusals[place]()
    assert "hunter2" not in refusal
    assert "webhook" in refusal.lower()


@pytest.mark.parametrize("line", ['webhook_secret = ["hunter2", 7]', 'webhook_secret = {a = "hunter2"}'])
def test_a_secret_of_a_wrong_type_is_never_shown(tmp_path, line):
    """A secret that is set as a list or table by mistake is not shown either."""
    assert "hunter2" not in _refusal(config=_toml(tmp_path, line))


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_what_is_not_supported_yet_says_so(name):
    """A key that this version can't serve refuses to start rather than being ignored."""
    assert _refusal({_variable(name): "something"}) == (
        f"{_variable(name)} is not supported by this version; leave it unset"
    )


@pytest.mark.parametrize("kind", ["gcs", "s3", "azure"])
def test_storage_that_is_not_supported_yet_says_so(kind):
    """A storage type that this version can't serve refuses to start."""
    assert "not supported by this version" in _refusal({"AUDIO_STORAGE_TYPE": kind})


@pytest.mark.parametrize("name", ["storage_path", "payload_types", "allowed_sources", "log_format", "state_path"])
def test_an_empty_value_is_unset(name):
    """An empty variable of a key without a fixed default counts as unset."""
    assert getattr(_load({_variable(name): ""}), name) == getattr(_load(), name)


def test_an_empty_http_address_means_no_http():
    """HTTP alone is turned off by an empty value."""
    assert _load({"AUDIO_HTTP_LISTEN": ""}).http_listen is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("10s", 10),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("45", 45),
        ("1.5s", 1.5),
        ("2d", 172_800),
        (" 5s ", 5),
    ],
)
def test_durations(text, seconds):
    """A duration is a sum of numbers with units, or bare seconds."""
    assert _load({"AUDIO_RETENTION": text}).retention == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5004", ("127.0.0.1", 5004)),
        ("[::1]:5004", ("::1", 5004)),
        ("[0:0::1]:0", ("::1", 0)),
        ("localhost:1", ("127.0.0.1", 1)),
    ],
)
def test_addresses(text, address):
    """An address is a numeric host and a port, an IPv6 host in brackets."""
    assert parse_address(text) == address


@given(st.ip_addresses().map(str), st.integers(0, 65_535))
def test_addresses_round_trip(host, port):
    """Every address is written so that it is read back."""
    assert parse_address(str(Address(host, port))) == Address(host, port)


@given(st.text(max_size=30) | st.text("0123456789.:[]ms%=,/", max_size=20), st.sampled_from(KEYS))
def test_any_text_is_a_value_or_refused(text, key):
    """Any text of any key loads or is refused as a configuration error of one line."""
    try:
        settings.load(None, {key.name: text}, HOME)
    except ConfigurationError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", ["input_listen", "output_listen"])
@pytest.mark.parametrize("address", ["0.0.0.0:5010", "[::]:5010", "192.0.2.7:5010"])
def test_an_open_port_needs_allowed_sources(name, address):
    """A port beyond loopback is refused until somebody is allowed to send."""
    refusal = _refusal({_variable(name): address})
    assert _variable(name) in refusal
    assert "AUDIO_ALLOWED_SOURCES" in refusal
    assert str(getattr(_load({_variable(name): address, "AUDIO_ALLOWED_SOURCES": "10.0.0.0/8"}), name)) == address


def test_both_sides_need_ports_of_their_own():
    """One port for both sides is refused, unless it is any free one."""
    same = {"AUDIO_INPUT_LISTEN": "127.0.0.1:5004", "AUDIO_OUTPUT_LISTEN": "127.0.0.1:5004"}
    assert "the port tells the side" in _refusal(same)
    free = _load(dict.fromkeys(same, "127.0.0.1:0"))
    assert free.input_listen == free.output_listen


@pytest.mark.parametrize(
    ("environ", "state_path"),
    [
        ({"STATE_DIRECTORY": "/s:/t", "XDG_STATE_HOME": "/x"}, "/s"),
        ({"XDG_STATE_HOME": "/x"}, "/x/twotrack"),
        ({}, "/home/someone/.local/state/twotrack"),
    ],
)
def test_the_state_directory_follows_the_system(environ, state_path):
    """State lies where systemd says, else where the desktop says, else under the home directory."""
    loaded = _load(environ)
    assert loaded.state_path == Path(state_path)
    assert loaded.storage_path == f"{state_path}/recordings"
    assert loaded.control_socket == Path(state_path) / "control.sock"


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"RUNTIME_DIRECTORY": "/r:/q", "XDG_RUNTIME_DIR": "/x"}, "/r/control.sock"),
        ({"XDG_RUNTIME_DIR": "/x"}, "/x/twotrack/control.sock"),
        ({"XDG_RUNTIME_DIR": "/x", "AUDIO_CONTROL_SOCKET": "/c"}, "/c"),
        ({"AUDIO_STATE_PATH": "/s"}, "/s/control.sock"),
    ],
)
def test_the_client_finds_the_daemons_socket(environ, path):
    """Client and daemon work out the same control socket."""
    environ = HOME | environ
    assert settings.control_socket(None, None, environ) == Path(path) == settings.load(None, {}, environ).control_socket


def test_the_client_minds_its_own_key(tmp_path):
    """A client finds the socket though other keys are bad or unknown; its own bad key is refused."""
    config = _toml(tmp_path, 'retention = "x"\nunknown = 1\ncontrol_socket = "/run/a.sock"')
    assert settings.control_socket(config, None, HOME | {"AUDIO_NONSENSE": "1"}) == Path("/run/a.sock")
    assert settings.control_socket(config, "/run/b.sock", HOME) == Path("/run/b.sock")
    with pytest.raises(ConfigurationError, match="can't be read"):
        settings.control_socket(tmp_path / "missing", None, HOME)
