import pytest
from etils import epath

from kd_jax.files import differences, folder, write_atomically


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "results.json")
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_differences_name_every_key():
    before = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert differences(before, before) == []
    assert differences(before, {"a": {"b": 2, "c": [1, 2]}, "e": 5}) == [
        "a.b was 1, is 2",
        "d was 4, is 'absent'",
        "e was 'absent', is 5",
    ]


def test_folders_are_absolute_and_buckets_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(folder("runs/x")) == f"{tmp_path}/runs/x"
    assert str(folder("gs://bucket/runs/x")) == "gs://bucket/runs/x"
