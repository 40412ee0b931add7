"""Image files in folders: their names, their content, and labeled sets of them."""

import dataclasses
import os
import pathlib
from typing import NoReturn

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.data.base import StoredSource
from kd_jax.data.fitting import Fit
from kd_jax.data.images import StoredImages
from kd_jax.data.local_files import expanded, open_file

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Extensions of image files, in lowercase or uppercase; other files are ignored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileImages(StoredImages):
    """Image files; the keys are their paths relative to a folder.

    Attributes:
        root: the folder.
    """

    root: str

    def name(self, key: str) -> str:
        """Returns the path of a file."""
        return os.path.join(self.root, key)

    def encoded(self, key: str) -> bytes:
        """Returns the content of a file."""
        return read_file(self.name(key))

    def num_bytes(self) -> np.ndarray:
        """Returns the lengths of the files, int64 `[N]`."""
        return np.array([_num_bytes(self.name(key)) for key in self.keys], np.int64)


@dataclasses.dataclass(frozen=True)
class FileSource(StoredSource):
    """Image files with labels, by split, sorted by name in each class.

    Attributes:
        path: the folder of the source.
        fit: size and color that all images are brought to. None needs images of one size.
    """

    path: str
    fit: Fit | None = None

    @property
    def _root(self) -> pathlib.Path:
        return expanded(self.path)

    def _files(self, split: str) -> tuple[list[str], list[int], int]:
        """Returns relative paths of a whole split, their labels, and the number of classes."""
        raise NotImplementedError

    def _whole(self, split: str) -> StoredImages:
        names, labels, num_classes = self._files(split)
        return FileImages(
            keys=np.array(names, object),
            labels=np.array(labels, np.int32),
            num_classes=num_classes,
            fit=self.fit,
            root=str(self._root),
        )


def read_file(path: str) -> bytes:
    """Returns the content of a file; raises `UsageError` if it cannot be read or is not regular."""
    try:
        with open_file(path) as file:
            return file.read()  # Pillow itself would read a small file in many pieces
    except OSError as error:
        raise _unreadable(path, error) from error


def _num_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # a NUL character
        raise _unreadable(path, OSError(0, str(error))) from error


def _unreadable(path: str, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read ({error.strerror}): restore the file.")


def _refuse_folder(error: OSError) -> NoReturn:
    raise UsageError(
        f"{error.filename} cannot be read ({error.strerror}): name the right folder"
        " (data.source.path in a config)."
    ) from error


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    """Returns the entries of a folder, sorted by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        _refuse_folder(error)
    return sorted(visible, key=lambda entry: entry.name)


def folder_names(folder: pathlib.Path) -> list[str]:
    """Returns the names of the folders in a folder, sorted.

    Raises:
        UsageError: if the folder, or a link in it, cannot be read.
    """
    names = []
    for entry in _entries(folder):
        try:
            names += [entry.name] if entry.is_dir() else []
        except OSError as error:  # a link to itself
            raise UsageError(
                f"{folder / entry.name} cannot be read ({error.strerror}): remove it."
            ) from error
    return names


def image_names(folder: pathlib.Path, allow_none: bool = True) -> list[str]:
    """Returns the names of the images in a folder, sorted.

    Args:
        folder: the folder, without the folders in it.
        allow_none: accept a folder without images.

    Raises:
        UsageError: if the folder cannot be read, or has no images and must have some.
    """
    names = [entry.name for entry in _entries(folder) if entry.name.lower().endswith(EXTENSIONS)]
    if not names and not allow_none:
        raise UsageError(f"{folder} holds no images: add images, or remove the folder.")
    return names


def images_below(folder: pathlib.Path) -> list[str]:
    """Returns the relative paths of all images in a folder and in the folders in it.

    The paths have slashes and are sorted; hidden files are left out.

    Raises:
        UsageError: if there are none, or a folder cannot be read.
    """
    names = sorted(
        pathlib.Path(parent, file).relative_to(folder).as_posix()
        for parent, _, files in os.walk(folder, onerror=_refuse_folder)
        for file in files
        if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
    )
    if not names:
        raise UsageError(f"{folder} holds no images: name the folder that holds them.")
    return names
