"""Local files: opens regular files only, and reads their bytes, text and whole numbers."""

import os
import pathlib
import stat
from typing import BinaryIO

from kd_jax.core.errors import UsageError

_DIGITS = 18  # every number of so many digits is an int64


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path in which `~` is the home directory; `~NAME` of no user stays as it is.

    Raises:
        UsageError: if the path has a NUL character.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise UsageError(f"the path {text!r} has a NUL character: correct it.")
    return pathlib.Path(os.path.expanduser(text))


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file to read. It never waits, as a plain `open` does for a FIFO.

    Raises:
        OSError: if the file cannot be read, is no regular file, or its path cannot exist.
    """
    try:
        file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115, the caller closes it
    except ValueError as error:  # a NUL character, or one that the file system cannot encode
        raise OSError(0, "no path has such characters", os.fspath(path)) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "it is no regular file", os.fspath(path))
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: str | os.PathLike[str]) -> str:
    """Returns the content of a text file in UTF-8.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no text.
    """
    text = os.fspath(path)
    with open_file(text if "\0" in text else os.path.expanduser(text)) as file:
        return file.read().decode("utf-8-sig")


def is_count(text: str) -> bool:
    """Returns whether a text is a whole number of 0 or more, of at most 18 digits."""
    return text.isdecimal() and len(text) <= _DIGITS
