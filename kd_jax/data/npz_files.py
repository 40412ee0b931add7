"""Arrays in `.npz` files of any origin, without pickles, and within the memory they really need."""

import math
import os
import zipfile
from collections.abc import Iterable

import numpy as np

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.local_files import expanded, open_file

_EXPANSION = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
"""Greatest possible ratio of the size of an array to its size in the file, by compression."""
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(
    path: str | os.PathLike[str], wanted: Iterable[str], key: str, remedy: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads some arrays of a file. Their checksums are verified.

    Args:
        path: the file; `~` is the home directory.
        wanted: names of the arrays to read; those that the file lacks are left out.
        key: option that names the file, and its value, for the error.
        remedy: advice at the end of the error.

    Returns:
        The arrays by name, and the names of all arrays in the file.

    Raises:
        UsageError: if the file cannot be read, or is damaged or encrypted.
    """
    try:
        with open_file(expanded(path)) as file, zipfile.ZipFile(file) as archive:
            members = {item.filename.removesuffix(".npy"): item for item in archive.infolist()}
            arrays = {name: _read(archive, members[name]) for name in wanted if name in members}
            return arrays, list(members)
    except UsageError:
        raise
    except Exception as error:  # damage raises errors of many kinds, from zlib to NumPy
        raise UsageError(f"{key} cannot be read ({reason(error)}): {remedy}.") from error


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Returns an array; raises `ValueError` before it reserves memory that the file cannot fill."""
    name = member.filename
    if member.flag_bits & 1:
        raise ValueError(f"{name!r} is encrypted")
    stored = min(member.compress_size, os.stat(_descriptor(archive)).st_size)
    if member.file_size > stored * _EXPANSION.get(member.compress_type, 0):
        raise ValueError(f"{name!r} claims {member.file_size} bytes, which the file cannot hold")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{name!r} has the unknown version {version}")
        shape, _, dtype = _HEADERS[version](stream)
        if dtype.hasobject:
            raise ValueError(f"{name!r} holds Python objects")
        if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{name!r} does not have the size of {dtype} {list(shape)}")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _descriptor(archive: zipfile.ZipFile) -> int:
    assert archive.fp is not None  # it is open
    return archive.fp.fileno()
