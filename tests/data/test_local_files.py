import os

import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data.local_files import expanded, is_count, open_file, read_text


def test_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert str(expanded("~/x")) == "/home/ann/x"
    assert str(expanded("~no_such_user/x")) == "~no_such_user/x"
    for path in ("a\0b", "~\0/x"):
        with pytest.raises(UsageError, match="has a NUL character"):
            expanded(path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fifo", "it is no regular file"),
        ("folder", "Is a directory"),
        ("link", "Too many levels"),
        ("none", "No such file"),
        ("a\0b", "no path has such characters"),
        ("a\ud800b", "no path has such characters"),
        ("~\0/x", "no path has such characters"),
        ("x" * 5000, "name too long"),
    ],
)
def test_only_regular_files_are_opened(tmp_path, name, says):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "link")
    path = name if name.startswith("~") else f"{tmp_path}/{name}"
    for read in (open_file, read_text):
        with pytest.raises(OSError, match=says):
            read(path)


def test_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffJosé\n".encode())
    assert read_text(tmp_path / "a.txt") == "José\n"
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(tmp_path / "a.txt")


def test_whole_numbers_fit_into_64_bits():
    assert [
        text
        for text in ("0", "017", "9" * 18, "9" * 19, "9" * 5000, "-1", "1.0", "")
        if is_count(text)
    ] == ["0", "017", "9" * 18]
