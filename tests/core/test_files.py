import os

import pytest
from etils import epath

from kd_jax.core.errors import UsageError
from kd_jax.core.files import absolute_path, differences, write_atomically


def test_a_file_has_the_old_or_the_new_content(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "results.json")
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_atomically(path, b"new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("path", ["http://host/run", "run\0"])
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
