import os

import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data.identities import read_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Ann\nLi\n", {"Ann", "Li"}),
        ("17\n23\n", {"17", "23"}),
        ("2\nAnn\t3\nLi\t1\n", {"Ann", "Li"}),
        ("2\n1\nAnn,3\n1\nLi,1\n", {"Ann", "Li"}),
        ("9" * 5000, {"9" * 5000}),
    ],
)
def test_lists_of_identities(tmp_path, text, names):
    (tmp_path / "names.txt").write_text(text)
    assert read_names(str(tmp_path / "names.txt")) == names


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "names no identities"),
        (b"\xff\xfe", "cannot be read"),
        (b"3\nAnn\t3\nLi\t1\n", "has counts for 3 identities, but names 2"),
        (b"9" * 5000 + b"\n2\nAnn\t3\nLi\t1\n", "has counts for 2 identities, but names 3"),
    ],
)
def test_damaged_lists_are_refused(tmp_path, content, says):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_names(str(tmp_path / "names.txt"))


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), "a\0b", "~no_such_user/x", str(tmp_path)):
        with pytest.raises(UsageError, match="cannot be read"):
            read_names(path)
