"""Tests of storage: one suite that every backend passes, then what only a directory has."""

import os
import resource
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.request import urlopen

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twotrack.errors import ConfigurationError, NameTakenError, StorageError
from twotrack.storage import StorageType, open_storage
from twotrack.storage.local import LocalStorage

BACKENDS = {StorageType.LOCAL: lambda path: open_storage(StorageType.LOCAL, str(path))}
NAME = "conversation_a_merged.opus"
MEBIBYTE = 1024 * 1024


@pytest.fixture(params=BACKENDS)
def storage(request, tmp_path):
    """An empty storage of each backend."""
    return BACKENDS[request.param](tmp_path / "recordings")


@pytest.fixture(params=[bytes, "file"])
def content(request, tmp_path):
    """Makes content to be stored: bytes as they are, or a file that holds them."""

    def make(data):
        if request.param is bytes:
            return data
        path = tmp_path / f"source-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(data)
        return path

    return make


def _stored(storage, name=NAME):
    with urlopen(storage.url(name)) as response:
        return response.read()


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 20_000])
def test_what_is_put_is_found_at_its_url(storage, content, data):
    """An object is stored byte for byte, from memory and from a file."""
    storage.put(NAME, content(data))
    assert _stored(storage) == data


def test_the_same_bytes_again_are_success(storage, content):
    """Storing the same bytes under the same name again changes nothing and raises nothing."""
    storage.put(NAME, content(b"sound"))
    storage.put(NAME, content(b"sound"))
    assert _stored(storage) == b"sound"


@pytest.mark.parametrize("other", [b"other", b"sounD", b"", b"sound and more"])
def test_other_bytes_never_overwrite(storage, content, other):
    """Other bytes under a name in use are refused, and what is stored stays."""
    storage.put(NAME, content(b"sound"))
    with pytest.raises(NameTakenError):
        storage.put(NAME, content(other))
    assert _stored(storage) == b"sound"


def test_holds_other_compares_the_bytes(storage, content):
    """Only other bytes under the name are another object: not the same ones, and not none."""
    assert not storage.holds_other(NAME, content(b"sound"))
    storage.put(NAME, content(b"sound"))
    assert not storage.holds_other(NAME, content(b"sound"))
    assert storage.holds_other(NAME, content(b"noise"))
    assert storage.holds_other(NAME, content(b""))


def test_delete_makes_the_name_free(storage, content):
    """A deleted object is gone, its name free, and deleting it again is success."""
    storage.put(NAME, content(b"sound"))
    storage.delete(NAME)
    storage.delete(NAME)
    assert not storage.holds_other(NAME, content(b"other"))
    storage.put(NAME, content(b"other"))
    assert _stored(storage) == b"other"


@pytest.mark.parametrize("name", ["a~2_merged.opus", "a=b@c:d+e-f.json", "x" * 230 + ".json"])
def test_every_connection_id_is_a_name(storage, name):
    """Names of all the characters and the length that a connection id may have are stored."""
    storage.put(name, b"sound")
    assert _stored(storage, name) == b"sound"


def test_names_are_apart(storage):
    """Objects of different names don't touch each other."""
    storage.put("a.json", b"1")
    storage.put("b.json", b"2")
    storage.delete("a.json")
    assert _stored(storage, "b.json") == b"2"


def test_a_missing_source_is_an_error(storage, tmp_path):
    """A file that is not there is a StorageError, and nothing is stored."""
    with pytest.raises(StorageError, match="no such file"):
        storage.put(NAME, tmp_path / "missing")
    assert not storage.holds_other(NAME, b"")


def test_of_many_writers_one_wins(storage):
    """Of different objects put under one name at once, one is stored whole and the others are refused."""
    barrier, contents = threading.Barrier(8), [bytes((i,)) * MEBIBYTE for i in range(8)]

    def put(data):
        barrier.wait()
        try:
            storage.put(NAME, data)
        except NameTakenError:
            return None
        return data

    with ThreadPoolExecutor(8) as pool:
        winners = [data for data in pool.map(put, contents) if data]
    assert winners == [_stored(storage)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([b"1", b"2"]), st.booleans()), max_size=10))
def test_storage_is_a_write_once_map(storage, steps):
    """Any order of puts and deletes leaves what a map that never overwrites would hold."""
    expected = {}
    for name in "ab":
        storage.delete(name)
    for name, data, is_put in steps:
        if not is_put:
            storage.delete(name)
            expected.pop(name, None)
        elif expected.setdefault(name, data) == data:
            storage.put(name, data)
        else:
            with pytest.raises(NameTakenError):
                storage.put(name, data)
    for name, data in expected.items():
        assert _stored(storage, name) == data


@pytest.mark.parametrize("kind", [StorageType.GCS, StorageType.S3, StorageType.AZURE])
def test_a_kind_without_backend_is_refused(kind):
    """A kind of storage that this version lacks is refused by name."""
    with pytest.raises(ConfigurationError, match=f"AUDIO_STORAGE_TYPE={kind}"):
        open_storage(kind, "bucket")


@contextmanager
def _file_size_limit(size):
    """A disk that is full after so many bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_directory_is_made(tmp_path):
    """A directory that is missing is made, with those above it."""
    LocalStorage(tmp_path / "a" / "b").put(NAME, b"sound")
    assert (tmp_path / "a" / "b" / NAME).read_bytes() == b"sound"


def test_a_directory_that_cannot_be_made(tmp_path):
    """A file where the directory should be is a StorageError that names it."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        LocalStorage(tmp_path / "file")
    with pytest.raises(StorageError, match="can't be made"):
        LocalStorage(tmp_path / "file" / "below")


def test_a_relative_directory_has_an_absolute_url(tmp_path, monkeypatch):
    """The URL is whole, wherever the process was started."""
    monkeypatch.chdir(tmp_path)
    assert open_storage(StorageType.LOCAL, "calls").url("a b.opus") == f"{tmp_path.as_uri()}/calls/a%20b.opus"


def test_recordings_are_not_for_everybody(tmp_path):
    """Others than owner and group can't read a recording."""
    LocalStorage(tmp_path).put(NAME, b"sound")
    assert not stat.S_IMODE((tmp_path / NAME).stat().st_mode) & 0o007


def test_a_reader_never_sees_a_part(tmp_path):
    """While an object is being written, its name does not exist yet."""
    source, directory = tmp_path / "source", tmp_path / "recordings"
    os.mkfifo(source)
    storage = LocalStorage(directory)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(storage.put, NAME, source)
        with source.open("wb", buffering=0) as pipe:
            pipe.write(bytes(3 * MEBIBYTE))  # more than a pipe holds: the writer is at work
            assert not (directory / NAME).exists()
            pipe.write(b"end")
        done.result()
    assert (directory / NAME).stat().st_size == 3 * MEBIBYTE + 3


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path, is_taken):
    """An object that does not fit is a StorageError, and no part of it stays; what was stored stays."""
    storage = LocalStorage(tmp_path)
    if is_taken:
        storage.put(NAME, b"sound")
    with _file_size_limit(MEBIBYTE), pytest.raises(StorageError, match="too large"):
        storage.put(NAME, bytes(2 * MEBIBYTE))
    assert [path.name for path in tmp_path.iterdir()] == [NAME] * is_taken


@pytest.mark.parametrize("again", [b"sound", b"other"])
def test_nothing_but_the_object_stays(tmp_path, again):
    """No temporary file stays, whether the name was free, held the same or held another object."""
    storage = LocalStorage(tmp_path)
    storage.put(NAME, b"sound")
    try:
        storage.put(NAME, again)
    except NameTakenError:
        assert again == b"other"
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_bytes_are_on_disk_before_their_name(tmp_path, monkeypatch):
    """The content is synced before it gets its name, and the directory after."""
    steps, sync, link = [], os.fsync, os.link

    def record_sync(descriptor):
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def record_link(*arguments):
        steps.append("link")
        link(*arguments)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "link", record_link)
    LocalStorage(tmp_path).put(NAME, b"sound")
    assert steps == ["file", "link", "directory"]
