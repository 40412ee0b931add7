import os
import pathlib
import socket

import pytest
from etils import epath

from kd_jax.core import files
from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path, differences, write_atomically


def test_a_file_has_the_old_or_the_new_content(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "results.json")
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]
    monkeypatch.undo()
    os.mkfifo(tmp_path / "results.json.tmp")  # opening it to write would wait for a reader
    write_atomically(path, b"new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("path", ["http://host/run", "run\0", "~no_such_user/run"])
def test_what_is_no_path_is_named(path):
    with pytest.raises(UsageError, match=r"cannot be a path .*: name a folder or file"):
        absolute_path(path)


def test_differences_name_every_key():
    before = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert differences(before, before) == []
    assert differences(before, {"a": {"b": 2, "c": [1, 2]}, "e": 5}) == [
        "a.b was 1, is 2",
        "d was 4, is 'absent'",
        "e was 'absent', is 5",
    ]


def test_paths_become_absolute_and_buckets_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(absolute_path("runs/x")) == f"{tmp_path}/runs/x"
    assert str(absolute_path("~/runs")) == os.path.expanduser("~/runs")
    assert str(absolute_path("gs://bucket/runs/x")) == "gs://bucket/runs/x"


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A working directory with paths that cannot be written."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    os.mkdir("folder")
    pathlib.Path("file").write_text("text")
    pathlib.Path("loop").symlink_to("loop")
    pathlib.Path("null").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        yield tmp_path


def everything(folder):
    """Returns every path below a folder."""
    return sorted(path.as_posix() for path in folder.rglob("*"))


BAD = {
    "fifo": "it is no regular file",
    "socket": "it is no regular file",
    "loop": "it is no regular file",
    "null": "it is no regular file",
    "/dev/full": "it is no regular file",
    "folder": "it is a folder",
    "file/x": "/file is no folder",
    "new/" * 3 + "n" * 255: "File name too long",
    "/proc/no/such/file": "cannot be written",
    "~no_such_user/x": "there is no user 'no_such_user'",
    "a\0b": "it has a NUL character",
}


@pytest.mark.parametrize("path", BAD)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_computed(outputs, path):
    before = everything(outputs)
    with pytest.raises(UsageError) as refused:
        files.output_file(path, "--out")
    assert BAD[path] in str(refused.value)
    assert str(refused.value).startswith("--out")
    assert everything(outputs) == before


@pytest.mark.parametrize("path", [*sorted(BAD.keys() - {"folder"}), "file"])
def test_a_folder_that_cannot_be_written_is_refused(outputs, path):
    if len(path) > 99:
        path += "n"  # the longest name of a folder has 255 characters, that of a file 251
    before = everything(outputs)
    with pytest.raises(UsageError, match=r"^--out") as refused:
        files.output_folder(path, "--out")
    assert "\n" not in str(refused.value)
    assert everything(outputs) == before


def test_a_trial_write_leaves_nothing_and_follows_links(outputs):
    before = everything(outputs)
    pathlib.Path("link").symlink_to("folder/target")
    assert files.output_file("link", "--out") == outputs / "folder" / "target"
    pathlib.Path("link").unlink()
    assert files.output_file("new/inner/file", "--out") == outputs / "new" / "inner" / "file"
    assert files.output_file("file", "--out") == outputs / "file"
    assert files.output_folder("folder", "--out") == outputs / "folder"
    assert files.output_folder("new/inner", "--out") == outputs / "new" / "inner"
    assert everything(outputs) == before
    assert pathlib.Path("file").read_text() == "text"


@pytest.mark.parametrize("check", [files.output_file, files.output_folder])
def test_a_full_disk_is_found_by_the_trial_write(outputs, monkeypatch, check):
    before = everything(outputs)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(UsageError, match="No space left on device"):
        check("new/inner", "--out")
    assert everything(outputs) == before


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"\xff", b'{"a": NaN}', b"[" * 10**5, None]
)
def test_what_is_no_json_object_is_an_error(tmp_path, content):
    path = epath.Path(tmp_path / "stage.json")
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        files.read_json(path)
    path.unlink()
    path.write_text('{"a": 1}')
    assert files.read_json(path) == {"a": 1}
