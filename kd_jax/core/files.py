"""Files of a run, on a local disk or in a bucket (`gs://...`)."""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from kd_jax.core.errors import UsageError, reason

PathLike = str | os.PathLike[str]
"""A path on a disk or in a bucket."""
_TRIAL = 4096
"""Number of bytes that are written to find out whether a file can be written."""
REMEDIES = {
    errno.ENOSPC: "free space on the disk",
    errno.EDQUOT: "free space in the quota",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a path with the right permissions",
    errno.EPERM: "choose a path with the right permissions",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close files of other programs",
    errno.EIO: "check the disk",
    errno.ENOENT: "restore its folder",
    **dict.fromkeys(
        (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT),
        "check the network",
    ),
}
"""What the user can do about errors of the operating system."""


def absolute_path(path: PathLike, key: str | None = None) -> epath.Path:
    """Returns the absolute path; `~` is the home directory.

    Args:
        path: the path.
        key: option that names the path, for errors.

    Raises:
        UsageError: if the text is no path, such as `http://...`, a text with a NUL character, or
            `~NAME` where no user has this name.
    """
    text = os.fspath(path)
    try:
        if "\0" in text:
            raise ValueError("it has a NUL character")
        if "://" in text:
            return epath.Path(text)
        expanded = os.path.expanduser(text)
        if expanded.startswith("~"):
            raise ValueError(f"there is no user {expanded.partition(os.sep)[0][1:]!r}")
        return epath.Path(os.path.abspath(expanded))
    except (KeyError, ValueError) as error:
        name = "" if key is None else f"{key} = "
        raise UsageError(
            f"{name}{text!r} cannot be a path ({error}): name a folder or file on a disk, or"
            " gs://..."
        ) from error


def write_atomically(path: epath.Path, content: str | bytes) -> None:
    """Writes a file that has either the old or the new content, whenever the process dies."""
    draft = path.with_name(path.name + ".tmp")
    try:
        if local := "://" not in os.fspath(path):
            draft.unlink(missing_ok=True)  # an older draft, or a FIFO that would never open
        with draft.open("wb" if isinstance(content, bytes) else "w") as file:
            file.write(content)
            file.flush()
            if local:
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_file(path: epath.Path, content: str | bytes, *, make_folder: bool = False) -> None:
    """Writes a file by `write_atomically`.

    Args:
        path: the file.
        content: its content.
        make_folder: make the folders that are missing.

    Raises:
        UsageError: if it cannot be written, such as on a full disk.
    """
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "make room for it")
        raise UsageError(
            f"{path} cannot be written ({reason(error)}): {remedy}, and run the same command again."
        ) from error


def read_regular(path: epath.Path) -> str:
    """Returns the content of a text file in UTF-8. It never waits, as for a FIFO.

    Raises:
        OSError: if the file cannot be read or is no regular file.
        ValueError: if it is no text.
    """
    if "://" not in os.fspath(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return path.read_text(encoding="utf-8")


def read_json(path: epath.Path) -> dict[str, Any]:
    """Returns the content of a file with one JSON object. NaN and infinity are refused.

    Raises:
        OSError: if the file cannot be read or is no regular file.
        ValueError: if it is no JSON object.
    """
    try:
        values = json.loads(read_regular(path), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def output_file(path: PathLike, key: str) -> epath.Path:
    """Returns the path of a file to write later. A trial write finds errors now.

    Symbolic links are followed. On a local disk, a temporary file is written in the same folder and
    removed, and so are the folders that are missing.

    Args:
        path: the file.
        key: option that names the file, for errors.

    Raises:
        UsageError: if the path exists and is no regular file, or cannot be written.
    """
    place = absolute_path(path, key)
    with _unwritable(path, key, "file"):
        if "://" in os.fspath(place):
            if place.is_dir():
                raise OSError(errno.EISDIR, "it is a folder")
            return place
        place = epath.Path(os.path.realpath(place))
        if place.is_dir():
            raise OSError(errno.EISDIR, "it is a folder")
        if os.path.lexists(place) and not os.path.isfile(place):
            raise OSError(errno.EINVAL, "it is no regular file")
        _try_to_write(place.with_name(place.name + ".tmp"))
    return place


def output_folder(path: PathLike, key: str) -> epath.Path:
    """Returns the path of a folder to write later. A trial write finds errors now.

    On a local disk, a temporary file is written in the folder and removed, and so are the folders
    that are missing.

    Args:
        path: the folder.
        key: option that names the folder, for errors.

    Raises:
        UsageError: if the path exists and is no folder, or cannot be written.
    """
    place = absolute_path(path, key)
    with _unwritable(path, key, "folder"):
        if "://" not in os.fspath(place):
            if os.path.lexists(place) and not place.is_dir():
                raise OSError(errno.ENOTDIR, "it is no folder")
            _try_to_write(place / f".trial.{os.getpid()}.tmp")
    return place


@contextlib.contextmanager
def _unwritable(path: PathLike, key: str, kind: str) -> Iterator[None]:
    """Turns an error of the operating system into a `UsageError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{key}={os.fspath(path)} cannot be written ({reason(error)}): name a {kind} elsewhere."
        ) from error


def _try_to_write(draft: epath.Path) -> None:
    """Writes a temporary file, and removes it and the folders that were made for it."""
    missing = [folder for folder in draft.parents if not os.path.lexists(folder)]
    above = draft.parents[len(missing)]
    if not above.is_dir():
        raise OSError(errno.ENOTDIR, f"{above} is no folder")
    try:
        os.makedirs(draft.parent, exist_ok=True)
        draft.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError), open(draft, "xb") as file:
            # Not found: another process, which tries the same, has just removed the new folder.
            file.write(bytes(_TRIAL))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        for folder in missing:  # the innermost first; one that another process uses stays
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Lists where two JSON values differ, in words: `data.batch_size was 64, is 128`."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(k for k in now if k not in before)]
        return [
            line
            for k in keys
            for line in differences(
                before.get(k, "absent"), now.get(k, "absent"), f"{key}.{k}" if key else k
            )
        ]
    return [] if before == now else [f"{key} was {before!r}, is {now!r}"]
