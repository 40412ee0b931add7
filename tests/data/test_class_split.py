import pathlib

import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data.class_split import by_number, check_path, class_number, read_rows

PATH = pathlib.Path("list.txt")


def test_images_are_grouped_by_the_numbers_of_their_classes():
    assert by_number(["a", "b", "c", "d"], [7, 3, 7, 20]) == [["b"], ["a", "c"], ["d"]]


def test_columns_of_text_files(tmp_path):
    path = tmp_path / "images.txt"
    path.write_text("1 a b.jpg\n\n2  c.jpg \n")
    assert read_rows(path, 2, "repair it") == [["1", "a b.jpg"], ["2", "c.jpg"]]
    for text in ("", "\n", "1 a.jpg\n2\n"):
        path.write_text(text)
        with pytest.raises(UsageError, match="fewer than 2 columns: repair it"):
            read_rows(path, 2, "repair it")
    path.write_bytes(b"\xff\xfe")
    for wrong in (path, tmp_path / "none.txt", tmp_path):
        with pytest.raises(UsageError, match=r"cannot be read \(.*\): repair it"):
            read_rows(wrong, 2, "repair it")


def test_numbers_and_paths_are_checked():
    assert class_number("12", PATH, "repair it") == 12
    for text in ("0", "-1", "x", "1.0", "9" * 30):
        with pytest.raises(UsageError, match=r"list\.txt has .* in place of the number of a class"):
            class_number(text, PATH, "repair it")
    assert check_path("a/b..c.jpg", PATH, "repair it") == "a/b..c.jpg"
    for name in ("/etc/x.jpg", "../x.jpg", "a/../../x.jpg", "a\0b"):
        with pytest.raises(UsageError, match=r"list\.txt names .*, which is not in its folder"):
            check_path(name, PATH, "repair it")
