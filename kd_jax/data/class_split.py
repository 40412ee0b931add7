"""Sources of retrieval: the test classes are none of the training classes."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.image_files import FileSource, folder_names, image_names
from kd_jax.data.local_files import is_count, read_text


class ClassFiles(NamedTuple):
    """Image files by class.

    Attributes:
        train: paths of the images of each training class, relative to the folder of the source.
        test: paths of the images of each test class.
    """

    train: Sequence[Sequence[str]]
    test: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class ClassSplitSource(FileSource):
    """Image files whose test classes are none of the training classes, for retrieval.

    The training classes have the labels 0 to C - 1. The test classes have the labels C, C + 1 and
    so on, which are no classes of a classifier. A stage needs an evaluator such as `retrieval`.
    """

    def _classes(self) -> ClassFiles:
        """Returns the files of all classes."""
        raise NotImplementedError

    def _splits(self) -> list[str]:
        return ["train", "test"]

    def _files(self, split: str) -> tuple[list[str], list[int], int]:
        classes = self._classes()
        first, groups = 0, classes.train
        if split == "test":
            first, groups = len(classes.train), classes.test
        paths = [path for group in groups for path in group]
        labels = [first + label for label, group in enumerate(groups) for _ in group]
        return paths, labels, first + len(groups)


def by_folder(root: pathlib.Path) -> list[list[str]]:
    """Returns the images of each folder in a folder, `FOLDER/IMAGE`, all sorted by name.

    Raises:
        UsageError: if a folder cannot be read or has no images.
    """
    return [
        [f"{name}/{file}" for file in image_names(root / name, allow_none=False)]
        for name in folder_names(root)
    ]


def by_number(paths: Sequence[str], numbers: Sequence[int]) -> list[list[str]]:
    """Returns the paths of each class, in ascending order of the numbers of the classes.

    Args:
        paths: path of each image.
        numbers: number of the class of each image.
    """
    groups: dict[int, list[str]] = {number: [] for number in sorted(set(numbers))}
    for path, number in zip(paths, numbers, strict=True):
        groups[number].append(path)
    return list(groups.values())


def read_rows(path: pathlib.Path, columns: int, remedy: str) -> list[list[str]]:
    """Reads a text file of columns that spaces separate; empty lines are left out.

    Args:
        path: the file.
        columns: number of columns; the last one may contain spaces.
        remedy: advice at the end of the error.

    Raises:
        UsageError: if the file cannot be read, is empty, or a line has too few columns.
    """
    try:
        lines = [line for line in read_text(path).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({reason(error)}): {remedy}.") from error
    rows = [line.strip().split(maxsplit=columns - 1) for line in lines]
    if not rows or any(len(row) < columns for row in rows):
        raise UsageError(f"{path} is empty, or a line has fewer than {columns} columns: {remedy}.")
    return rows


def class_number(text: str, path: pathlib.Path, remedy: str) -> int:
    """Returns a number of 1 or more; raises `UsageError` for other texts of the file `path`."""
    if not is_count(text) or int(text) < 1:
        raise UsageError(f"{path} has {text!r} in place of the number of a class: {remedy}.")
    return int(text)


def check_path(name: str, path: pathlib.Path, remedy: str) -> str:
    """Returns the relative path of an image; raises `UsageError` if it leaves its folder."""
    if os.path.isabs(name) or ".." in pathlib.PurePosixPath(name).parts or "\0" in name:
        raise UsageError(f"{path} names {name!r}, which is not in its folder: {remedy}.")
    return name
