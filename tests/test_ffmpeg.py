"""Tests of merge.ffmpeg: the real FFmpeg, and others in its place that fail, hang or are slow."""

import array
import json
import math
import os
import select
import signal
import subprocess
from contextlib import suppress

import pytest

from packets import SAMPLE_RATE, opus_speech, opus_tone
from twotrack import oggopus, opus
from twotrack.errors import MergeError
from twotrack.merge import ffmpeg

TOTAL = 2 * SAMPLE_RATE
LEFT_FREQUENCY, RIGHT_FREQUENCY = 400, 1500
NEVER_S = 60


def _write(path, packets, total=TOTAL):
    timed = [(packet, opus.packet_samples(packet)) for packet in packets]
    path.write_bytes(b"".join(oggopus.mono_file(timed, total, serial=1, tags=oggopus.tags_bytes("test", []))))
    return path


def _inputs(directory):
    left = _write(directory / "left.opus", opus_tone(LEFT_FREQUENCY, 101))
    return left, _write(directory / "right.opus", opus_tone(RIGHT_FREQUENCY, 101)), directory / "merged.opus"


def _merge(directory, timeout_s=NEVER_S):
    """Merge two files; returns the output and the progress that was told."""
    left, right, output = _inputs(directory)
    progress = []
    ffmpeg.merge(left, right, output, timeout_s=timeout_s, on_progress=progress.append)
    return output, progress


def _refusal(directory, timeout_s=NEVER_S):
    with pytest.raises(MergeError) as refused:
        _merge(directory, timeout_s)
    return str(refused.value)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts a shell script in FFmpeg's place."""

    def put(script):
        directory = tmp_path / "bin"
        directory.mkdir()
        path = directory / "ffmpeg"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    return put


def _channels(path):
    """Left and right 16-bit samples of a file."""
    command = ["ffmpeg", "-v", "error", "-c:a", "libopus", "-i", str(path), "-f", "s16le", "-"]
    pcm = array.array("h", subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return pcm[::2], pcm[1::2]


def _loudness(pcm, frequency):
    """Amplitude of a frequency in a second of sound."""
    pcm, step = pcm[24_000:72_000], 2 * math.pi * frequency / SAMPLE_RATE
    real = sum(sample * math.cos(step * i) for i, sample in enumerate(pcm))
    imaginary = sum(sample * math.sin(step * i) for i, sample in enumerate(pcm))
    return 2 * math.hypot(real, imaginary) / len(pcm)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Two tones merged by the real FFmpeg, and the progress that was told."""
    return _merge(tmp_path_factory.mktemp("merged"))


def test_left_is_left_and_right_is_right(merged):
    """Each input is heard on its own channel, and not on the other."""
    left, right = _channels(merged[0])
    assert _loudness(left, LEFT_FREQUENCY) == pytest.approx(8192, rel=0.1)
    assert _loudness(right, RIGHT_FREQUENCY) == pytest.approx(8192, rel=0.1)
    assert _loudness(left, RIGHT_FREQUENCY) < 82
    assert _loudness(right, LEFT_FREQUENCY) < 82


def test_the_file_is_stereo_opus_of_the_inputs_length(merged):
    """The merged file is 48 kHz stereo Opus in Ogg, as long as its inputs."""
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(merged[0])]
    probed = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    (stream,) = probed["streams"]
    assert (stream["codec_name"], stream["channels"], stream["sample_rate"]) == ("opus", 2, "48000")
    assert probed["format"]["format_name"] == "ogg"
    _, _, samples = oggopus.read_audio(merged[0].read_bytes())
    assert samples == TOTAL


def test_progress_rises_to_the_end(merged):
    """Progress is told in seconds that rise to the file's length."""
    _, progress = merged
    assert progress == sorted(set(progress))
    assert progress[-1] == pytest.approx(TOTAL / SAMPLE_RATE, abs=0.1)


def test_the_same_inputs_give_the_same_bytes(merged, tmp_path):
    """Merging again gives the very same file, so that a repeated upload is known as such."""
    again, _ = _merge(tmp_path)
    assert again.read_bytes() == merged[0].read_bytes()


def test_the_filter_graph_is_the_seeds(tmp_path):
    """The command has the filter graph, mapping and codec of the contract."""
    command = ffmpeg.command(tmp_path / "l", tmp_path / "r", tmp_path / "o")
    assert command[command.index("-filter_complex") + 1] == (
        "[0:a]aresample=48000,pan=mono|c0=c0[left]; [1:a]aresample=48000,pan=mono|c0=c0[right]; "
        "[left][right]join=inputs=2:channel_layout=stereo[aout]"
    )
    after = command[command.index("-filter_complex") + 2 :]
    assert after[:4] == ["-map", "[aout]", "-c:a", "libopus"]


def test_concealment_is_concealed(tmp_path):
    """Packets of the TOC byte alone sound like what came before, not like silence."""
    tone = opus_tone(LEFT_FREQUENCY, 101)
    holes = [packet if i % 10 else packet[:1] for i, packet in enumerate(tone, 1)]
    left, right = _write(tmp_path / "l.opus", holes), _write(tmp_path / "r.opus", opus_speech(101))
    ffmpeg.merge(left, right, tmp_path / "o.opus", timeout_s=NEVER_S, on_progress=lambda _: None)
    assert _loudness(_channels(tmp_path / "o.opus")[0], LEFT_FREQUENCY) > 0.95 * 8192


def test_any_connection_id_is_a_directory(tmp_path):
    """Names that mean something to FFmpeg elsewhere, as in a call's directory, are only names."""
    directory = tmp_path / "a:b%03d@c=d+~"
    directory.mkdir()
    output, _ = _merge(directory)
    assert output.is_file()


def test_an_input_that_is_no_sound(tmp_path):
    """The real FFmpeg's complaint and exit status are in the error."""
    left, right, output = _inputs(tmp_path)
    left.write_bytes(b"not a sound")
    with pytest.raises(MergeError, match=r"^exit status \d+: .*left\.opus"):
        ffmpeg.merge(left, right, output, timeout_s=NEVER_S, on_progress=lambda _: None)


def test_a_failure_tells_its_complaint(fake, tmp_path):
    """An FFmpeg that fails is an error with its status and the last line it complained of."""
    fake("echo first >&2; echo 'No space left on device' >&2; exit 1")
    assert _refusal(tmp_path) == "exit status 1: No space left on device"


def test_a_failure_without_a_word(fake, tmp_path):
    """An FFmpeg that fails silently is an error with its status."""
    fake("exit 69")
    assert _refusal(tmp_path) == "exit status 69"


def test_a_long_complaint_blocks_nothing(fake, tmp_path):
    """An FFmpeg that complains more than a pipe holds still ends, and the last line is told."""
    fake("head -c 1000000 /dev/zero | tr '\\0' '\\n' >&2; printf 'caf\\351 the end' >&2; exit 1")
    assert _refusal(tmp_path) == "exit status 1: caf\ufffd the end"


def test_an_ffmpeg_that_is_killed(fake, tmp_path):
    """An FFmpeg that a signal ended, as when memory ran out, is an error with its number."""
    fake("kill -9 $$")
    assert _refusal(tmp_path) == "signal 9"


def test_a_missing_ffmpeg(tmp_path, monkeypatch):
    """Without FFmpeg the error says how to install it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _refusal(tmp_path) == "FFmpeg was not found: install it with: apt-get install ffmpeg"


def test_an_ffmpeg_that_cannot_be_run(tmp_path, monkeypatch):
    """A file in FFmpeg's place that may not be executed is an error with the reason."""
    (tmp_path / "ffmpeg").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _refusal(tmp_path) == "FFmpeg could not be started: Permission denied"


def _has_ended(pid):
    """True once a process is gone; waits for it as long as it takes, up to 5 s."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 5)[0])
    finally:
        os.close(descriptor)


def test_a_hanging_ffmpeg_is_ended_with_its_children(fake, tmp_path):
    """An FFmpeg without progress is ended after the timeout, and so is what it started."""
    fake(f"echo $$ > {tmp_path}/pids; sleep 1000 & echo $! >> {tmp_path}/pids; wait")
    assert _refusal(tmp_path, 0.5) == "no progress for 0.5 s, so FFmpeg was ended"
    parent, child = map(int, (tmp_path / "pids").read_text().split())
    assert _has_ended(parent)
    assert _has_ended(child)


def test_a_child_left_behind_is_ended(fake, tmp_path):
    """What an FFmpeg started and left running, its output still open, ends with it."""
    fake(f"sleep 1000 & echo $! > {tmp_path}/pid; exit 1")
    assert _refusal(tmp_path, 0.5)
    child = int((tmp_path / "pid").read_text())
    try:
        assert _has_ended(child)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.timeout(10)
def test_a_hanging_ffmpeg_that_has_closed_its_output_is_ended(fake, tmp_path):
    """An FFmpeg that tells nothing more but does not end is ended after the timeout."""
    fake("exec >&- 2>&-; sleep 1000")
    assert "no progress" in _refusal(tmp_path, 0.5)


@pytest.mark.timeout(10)
def test_lines_without_progress_are_no_progress(fake, tmp_path):
    """An FFmpeg that says the same position over and over is ended."""
    fake("while :; do echo out_time_us=N/A; echo out_time_us=500000; echo speed=1x; sleep 0.05; done")
    assert "no progress for 0.5 s" in _refusal(tmp_path, 0.5)


def test_slow_but_steady_progress_is_not_ended(fake, tmp_path):
    """An FFmpeg that works for longer than the timeout, with some progress all along, may finish."""
    step = "echo frame=$i; echo out_time_us=${i}00000; echo progress=continue; sleep 0.25"
    fake(f"for i in 1 2 3 4 5 6 7 8; do {step}; done")
    _, progress = _merge(tmp_path, 1.0)
    assert progress == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
