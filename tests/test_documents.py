"""What the documents say, held against the code and the running daemon."""

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemons import Daemon
from twotrack import keys, messages, settings
from twotrack.cli import COMMANDS, main
from twotrack.errors import ConfigurationError, RequestError
from twotrack.rtp import make

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIG = ROOT / "config" / "twotrack.toml"
UNIT = ROOT / "systemd" / "twotrack.service"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
UNSUPPORTED = {"storage_endpoint", "database_url", "webhook_url", "webhook_secret", "srtp_keys_file"}
SILENCE = b"\xf8\xff\xfe"


def table(first_column: str) -> list[list[str]]:
    """The cells of the README's table whose first column has this name, without backticks."""
    lines = README.partition(f"| {first_column} |")[2].splitlines()[2:]
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split(" | ")] for row in rows]


def examples(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def shown_default(key: keys.Key) -> str:
    """A key's default in documents."""
    return key.default or key.shown_default or "unset"


def config_lines() -> dict[str, str]:
    """The commented-out settings of the configuration file: key to its whole line without the mark."""
    lines = re.findall(r"^#(([a-z_]+) = .*)$", CONFIG.read_text(), re.MULTILINE)
    return {name: line for line, name in lines}


def test_readme_lists_every_setting_with_its_default() -> None:
    """The README's table of settings is the code's, in the same order."""
    documented = [(name, default) for name, default, _ in table("environment")]
    assert documented == [(key.variable, shown_default(key)) for key in keys.KEYS]


def test_configuration_file_lists_every_setting() -> None:
    """The configuration file has every key once, in the code's order, and no other."""
    assert list(config_lines()) == [key.name for key in keys.KEYS]


def test_configuration_file_changes_nothing() -> None:
    """As it is, the configuration file gives the defaults."""
    environ = {"HOME": "/home/somebody"}
    assert settings.load(CONFIG, environ=environ) == settings.load(environ=environ)


@pytest.mark.parametrize("key", keys.KEYS, ids=lambda key: key.name)
def test_configuration_file_shows_the_default(key: keys.Key, tmp_path: Path) -> None:
    """A line of the configuration file gives the default, or an example below words that give it."""
    line = config_lines()[key.name]
    if key.default is None:
        above = " ".join(CONFIG.read_text().partition(f"#{line}")[0].rpartition("\n\n")[2].replace("\n# ", " ").split())
        assert f"Default: {shown_default(key)}; for example:" in above
    else:
        (value,) = tomllib.loads(line).values()
        assert (str(value).lower() if isinstance(value, bool) else str(value)) == key.default
    (tmp_path / "one.toml").write_text(line)
    if key.name in UNSUPPORTED:
        with pytest.raises(ConfigurationError, match="not supported by this version"):
            settings.load(tmp_path / "one.toml", environ={})
    else:
        settings.load(tmp_path / "one.toml", environ={})


def test_readme_lists_every_command() -> None:
    """The README's table of commands names the code's commands, in the same order, and no other."""
    words = [command.split()[1] for command, _ in table("command")]
    assert list(dict.fromkeys(words)) == list(COMMANDS)


def test_readme_names_the_exit_codes() -> None:
    """The README's table of exit codes is complete."""
    assert [int(code) for code, _ in table("exit code")] == [0, 1, 2, 69, 78]


@pytest.mark.parametrize("document", [*DOCUMENTS, CONFIG, UNIT], ids=lambda path: path.name)
def test_documents_name_settings_that_exist(document: Path) -> None:
    """No document names a setting that the code does not know."""
    named = set(re.findall(r"\bAUDIO_[A-Z_]*[A-Z]\b", document.read_text()))
    assert named <= {key.variable for key in keys.KEYS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_make_targets_that_exist(document: Path) -> None:
    """Every `make` command in a document is a target."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert named <= targets


def test_documents_link_to_files_that_exist() -> None:
    """Every link from one document to another leads somewhere."""
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_architecture_names_every_room() -> None:
    """The architecture's table of rooms has every module of the package, and no other."""
    lines = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    documented = {name.rstrip("/") for cell in cells for name in re.findall(r"`([a-z0-9_/]+)`", cell)}
    package = ROOT / "daemon" / "twotrack"
    rooms = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert documented == {room for room in rooms if not room.startswith("__")}


def test_readme_lists_every_request() -> None:
    """The README's table of requests has every op of the protocol."""
    documented = {op for op, *_ in table("op")}
    with pytest.raises(RequestError) as refusal:
        messages.parse_request({"op": "none of them"})
    assert refusal.value.message == "op is one of " + ", ".join(op for op, *_ in table("op"))
    assert set(re.findall(r'"op": "([a-z]+)"', README)) <= documented


def test_readme_lists_every_error_code() -> None:
    """The README names each code of a refusal."""
    codes = re.findall(r"`([a-z_]+)`", README.partition("The codes:")[2].partition("###")[0])
    assert codes == [str(code) for code in messages.ErrorCode]


def test_readme_shows_the_whole_report(daemon: Daemon) -> None:
    """The README's report has the members of a real one."""
    (shown,) = (messages.parse_line(block.encode()) for block in examples("json"))
    daemon.request("open", connection_id="report", input_ssrc=1, output_ssrc=2)
    send_silence(daemon, input=1, output=2)
    real = daemon.request("close", connection_id="report", wait=True)["recording"]
    assert list(shown) == list(real)
    for member in ("file", "input", "output"):
        assert list(shown[member]) == list(real[member])


def send_silence(daemon: Daemon, **ssrcs: int) -> None:
    """Half a second of RTP for each side."""
    for side, ssrc in ssrcs.items():
        daemon.send(side, *(make(ssrc, number, 960 * number, 111, SILENCE) for number in range(25)))


def test_readme_python_client_records_a_call(daemon: Daemon, tmp_path: Path) -> None:
    """The README's Python client, run as it is, closes a call and prints its file."""
    client = tmp_path / "client.py"
    client.write_text(next(block for block in examples("python") if "AF_UNIX" in block))
    send_silence(daemon, input=123456, output=654321)
    command = [sys.executable, "-I", str(client), str(daemon.control_socket)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "conversation_call-1_merged.opus" in done.stdout
    recording = daemon.request("show", connection_id="call-1")["recording"]
    assert [recording[side]["ssrcs"] for side in ("input", "output")] == [["0x0001e240"], ["0x0009fbf1"]]


def test_readme_netcat_lines_are_answered(daemon: Daemon) -> None:
    """The lines of the README's netcat example open and close a call."""
    block = next(block for block in examples("sh") if "nc -N -U" in block)
    for line in re.findall(r"'(\{.*?\})'", block):
        members = messages.parse_line(line.encode())
        reply = daemon.request(members.pop("op"), **members)
    assert reply["state"] == "stored"


def test_readme_shell_lines_are_commands_that_exist() -> None:
    """Every `twotrack` line of the README's shell examples names a command and options that it has."""
    lines = [line for block in examples("sh") for line in block.splitlines() if "twotrack " in line]
    assert lines
    for line in lines:
        command, *words = line.partition("twotrack ")[2].partition(" #")[0].split()
        usage = CliRunner().invoke(main, [command, "--help"])
        assert usage.exit_code == 0, line
        assert all(word in usage.output for word in words if word.startswith("--")), line


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["config", "check"], ["config", "show"]])
def test_every_command_explains_itself(command: list[str]) -> None:
    """`--help` prints a usage and no stray escapes."""
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert "\\b" not in result.output


def test_unit_is_valid(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about the unit."""
    script = Path(sys.executable).with_name("twotrack")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/twotrack/bin/twotrack serve", f"{script} serve"))
    analyze = shutil.which("systemd-analyze")
    assert analyze, "systemd-analyze is missing: apt-get install systemd"
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_unit_runs_the_daemon_with_options_that_exist() -> None:
    """The unit's command line is one that `twotrack` takes, and 78 is not started again."""
    unit = UNIT.read_text()
    command = re.findall(r"^ExecStart=\S+ (\S+) (--\S+) \S+$", unit, re.MULTILINE)
    assert command == [("serve", "--config")]
    assert "Type=notify\n" in unit
    assert "RestartPreventExitStatus=78\n" in unit
