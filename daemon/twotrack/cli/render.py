"""`twotrack render`: a capture file to a stereo file, without a daemon."""

import json
import os
import tempfile
from pathlib import Path

import click

from twotrack import settings
from twotrack.capture import Choice, read_call
from twotrack.cli.options import as_json, print_json
from twotrack.cli.picture import print_recording
from twotrack.cli.progress import Progress
from twotrack.cli.sides import engine_option, to_sides
from twotrack.codecs import DEFAULT_PAYLOAD_TYPES
from twotrack.errors import CaptureError, StorageError
from twotrack.finalise import describe_file
from twotrack.merge import Engine
from twotrack.recording import RenderOptions, render
from twotrack.report import report as full_report


@click.command("render")
@click.argument("captures", nargs=-1, required=True, metavar="CAPTURE...", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The stereo file to write.")
@to_sides
@engine_option
@click.option("--report", type=click.Path(path_type=Path), help="Also write the report, as JSON, to this file.")
@as_json
def render_command(
    captures: tuple[Path, ...],
    output: Path,
    engine_name: str | None,
    report: Path | None,
    is_json: bool,
    choice: Choice,
) -> None:
    """Make the stereo file of the call in CAPTURE, a pcap or pcapng file; several are joined by time.

    Without ports or SSRCs: a spool's own ports, else the one or two RTP sources found, of which the
    first to arrive is the caller.

    \b
    Examples: twotrack render call.pcapng -o call.opus
              twotrack render both.pcap -o call.opus --input-port 5004 --output-port 5006
    """
    checked = settings.load(flags={"merge_engine": engine_name} if engine_name else {})
    call = read_call(captures, choice, checked.payload_types or DEFAULT_PAYLOAD_TYPES)
    options = RenderOptions(
        Engine(checked.merge_engine), checked.ffmpeg_timeout, checked.tail_padding, checked.payload_types
    )
    connection_id = captures[0].name.split(".")[0] or "capture"
    with tempfile.TemporaryDirectory(prefix="twotrack-") as work, Progress("Merging") as progress:
        recording = render(call, Path(work), connection_id, options, progress.notify)
        if recording.merged is None:
            raise CaptureError(f"{captures[0]} holds no audio of these sides; nothing was written")
        _write(output, recording.merged.read_bytes())
    file = describe_file(output, output.name, output.absolute().as_uri())
    complete = full_report(recording.contents, connection_id, file=file)
    if report is not None:
        _write(report, json.dumps(complete, ensure_ascii=False, indent=2).encode() + b"\n")
    if is_json:
        print_json(complete)
    else:
        print_recording(complete, output)


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} can't be written: {(error.strerror or '').lower()}") from error
