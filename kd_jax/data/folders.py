"""Labelled images in folders of files: one folder a class, or the archive of Tiny-ImageNet."""

import dataclasses
import os
import pathlib

import numpy as np

from kd_jax.data.images import StoredImages, StoredSource
from kd_jax.errors import UsageError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""How the names of image files end, in small letters or capitals; other files are left alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileImages(StoredImages):
    """Image files; the keys are their paths below a folder.

    Attributes:
        root: the folder.
    """

    root: str

    def name(self, key: str) -> str:
        """The path of a file."""
        return os.path.join(self.root, key)

    def encoded(self, key: str) -> bytes:
        """The content of a file."""
        return read_file(self.name(key))

    def num_bytes(self) -> np.ndarray:
        """Lengths of the files, int64 `[N]`."""
        try:
            return np.array([os.stat(self.name(key)).st_size for key in self.keys], np.int64)
        except OSError as error:
            raise _unreadable(error.filename, error) from error


def read_file(path: str) -> bytes:
    """The content of a file of a set; raises `UsageError` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()  # Pillow itself would read a small file in many pieces
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read ({error.strerror}): restore the file.")


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    """What lies in a folder, sorted by name, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read ({error.strerror}): name the right folder"
            " (data.source.path in a config)."
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


def folder_names(folder: pathlib.Path) -> list[str]:
    """Names of the folders in a folder, sorted; raises `UsageError` if it cannot be read."""
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def image_names(folder: pathlib.Path) -> list[str]:
    """Names of the images in a folder, sorted; raises `UsageError` if it cannot be read."""
    return [entry.name for entry in _entries(folder) if entry.name.lower().endswith(EXTENSIONS)]


def images_below(folder: pathlib.Path) -> list[str]:
    """Paths of all images below a folder, with slashes, sorted, without what is hidden.

    Raises:
        UsageError: if there are none.
    """
    names = sorted(
        pathlib.Path(place, file).relative_to(folder).as_posix()
        for place, _, files in os.walk(folder)
        for file in files
        if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
    )
    if not names:
        raise UsageError(f"{folder} holds no images: name the folder that holds them.")
    return names


def _images(folder: pathlib.Path) -> list[str]:
    names = image_names(folder)
    if not names:
        raise UsageError(f"{folder} holds no images: add them, or take the folder away.")
    return names


def _same(found: list[str], wanted: list[str], folder: pathlib.Path, said_by: object) -> None:
    """Raises `UsageError` unless a folder holds what a list says."""
    missing, surplus = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        raise UsageError(
            f"{folder / missing[0]} is missing, but {said_by} names it: unpack the archive again."
        )
    if surplus:
        raise UsageError(
            f"{folder / surplus[0]} is not named in {said_by}: unpack the archive again."
        )


class _Files(StoredSource):
    """Files with labels, by split, sorted by name in each class."""

    path: str

    @property
    def _root(self) -> pathlib.Path:
        return pathlib.Path(self.path).expanduser()

    def _files(self, split: str) -> tuple[list[str], list[int], int]:
        """Paths below the root of a whole split, their labels, and the number of classes."""
        raise NotImplementedError

    def _whole(self, split: str) -> StoredImages:
        names, labels, num_classes = self._files(split)
        return FileImages(
            keys=np.array(names, object),
            labels=np.array(labels, np.int32),
            num_classes=num_classes,
            root=str(self._root),
        )


@dataclasses.dataclass(frozen=True)
class Folder(_Files):
    """A user's own files, as torchvision's ImageFolder wants them: `PATH/SPLIT/CLASS/IMAGE.png`.

    All images must have one size. The classes are the folders in `PATH/train`, sorted by name;
    other splits, such as `PATH/test`, need not have all of them, but no others.

    Attributes:
        path: the folder that holds `train`.
    """

    path: str

    def _splits(self) -> list[str]:
        splits = folder_names(self._root)
        if "train" not in splits:
            raise UsageError(
                f"data.source.path {self.path!r} holds no folder 'train': the images must lie in it"
                " as train/CLASS/IMAGE.png."
            )
        return splits

    def _files(self, split: str) -> tuple[list[str], list[int], int]:
        folder = self._root / split
        labels = {name: label for label, name in enumerate(folder_names(self._root / "train"))}
        names = folder_names(folder)
        if not names:
            raise UsageError(f"{folder} holds no folders: put the images of each class into one.")
        for name in names:
            if name not in labels:
                raise UsageError(
                    f"{folder / name} is no class, {self._root / 'train'} has no such folder:"
                    " rename it, or take it out."
                )
        files = [(f"{split}/{c}/{f}", labels[c]) for c in names for f in _images(folder / c)]
        paths, found = zip(*files, strict=True)
        return list(paths), list(found), len(labels)


@dataclasses.dataclass(frozen=True)
class TinyImageNet(_Files):
    """Tiny-ImageNet: 200 classes of ImageNet at 64x64, 500 training images of each.

    Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015. It is read as the original
    archive `tiny-imagenet-200.zip` unpacks. The splits are `train` and `test`, which is the
    archive's `val`, 50 images of each class: its own `test` has no labels. A class's label is its
    place in `wnids.txt`. Grey images become RGB.

    The same images as arrays, uint8 `[N, 64, 64, 3]`, can be had from `Npz` too.

    Attributes:
        path: the folder `tiny-imagenet-200`, which holds `wnids.txt`.
    """

    path: str

    def _splits(self) -> list[str]:
        return ["train", "test"]

    def _files(self, split: str) -> tuple[list[str], list[int], int]:
        classes = [name for (name,) in self._table("wnids.txt", 1)]
        files = {"train": self._train_files, "test": self._test_files}[split](classes)
        labels = {name: label for label, name in enumerate(classes)}
        return (
            [path for path, _ in files],
            [labels[name] for _, name in files],
            len(classes),
        )

    def _table(self, name: str, columns: int) -> list[list[str]]:
        """The first columns of a text file; the first of all must name each thing once."""
        path = self._root / name
        try:
            rows = [
                line.split()[:columns] for line in path.read_text().splitlines() if line.strip()
            ]
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{path} cannot be read ({error}): set data.source.path to the folder"
                " tiny-imagenet-200 of the unpacked archive."
            ) from error
        if (
            not rows
            or any(len(row) < columns for row in rows)
            or len({row[0] for row in rows}) < len(rows)
        ):
            raise UsageError(
                f"{path} is damaged, empty or names something twice: unpack the archive again."
            )
        return rows

    def _train_files(self, classes: list[str]) -> list[tuple[str, str]]:
        root = self._root / "train"
        _same(folder_names(root), classes, root, self._root / "wnids.txt")
        names = {name: _images(root / name / "images") for name in classes}
        fewest, most = (f(classes, key=lambda name: len(names[name])) for f in (min, max))
        if len(names[fewest]) < len(names[most]):
            raise UsageError(
                f"{root / fewest / 'images'} holds {len(names[fewest])} images, that of {most}"
                f" {len(names[most])}: unpack the archive again."
            )
        return [(f"train/{name}/images/{f}", name) for name in classes for f in names[name]]

    def _test_files(self, classes: list[str]) -> list[tuple[str, str]]:
        root, annotations = self._root / "val", self._root / "val" / "val_annotations.txt"
        rows = sorted(self._table("val/val_annotations.txt", 2))
        known = set(classes)
        for file, name in rows:
            if name not in known:
                raise UsageError(
                    f"{annotations} gives {file} the class {name}, which"
                    f" {self._root / 'wnids.txt'} does not name: unpack the archive again."
                )
        folder = root / "images"
        _same(_images(folder), [file for file, _ in rows], folder, annotations)
        return [(f"val/images/{file}", name) for file, name in rows]
