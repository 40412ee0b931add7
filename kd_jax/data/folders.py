"""Labelled images in folders of files: one folder a class, or the archive of Tiny-ImageNet."""

import dataclasses
import io
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from kd_jax.data.images import ImageSet, Source, places_in_class, slices
from kd_jax.errors import UsageError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""How the names of image files end, in small letters or capitals; other files are left alone."""

_BLOCK = 256  # images decoded by a thread at a time
_ANY_SIZE = 10**12  # of a split, while only its name is asked for


def _pixels(path: str) -> np.ndarray:
    """One image as uint8 RGB `[H, W, 3]`."""
    try:
        with open(path, "rb") as file:
            data = file.read()  # Pillow itself would read a small file in many pieces
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): restore the file.") from error
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise UsageError(
                    f"{path} has pixels of more than 8 bits (mode {image.mode!r}): convert it."
                )
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # each of Pillow's decoders fails in its own ways
        raise UsageError(f"{path} is damaged or no image: restore the file.") from error


def _decode(paths: list[str]) -> np.ndarray:
    """Decodes files in their order; raises `UsageError` for the first that cannot be used."""
    shape = _pixels(paths[0]).shape
    images = np.empty((len(paths), *shape), np.uint8)

    def decode(start: int) -> None:
        for i in range(start, min(start + _BLOCK, len(paths))):
            pixels = _pixels(paths[i])
            if pixels.shape != shape:
                raise UsageError(
                    f"{paths[i]} has height and width {pixels.shape[:2]}, but {paths[0]}"
                    f" {shape[:2]}: bring all images to one size first."
                )
            images[i] = pixels

    with ThreadPoolExecutor() as pool:  # files are read while others are decoded
        for _ in pool.map(decode, range(0, len(paths), _BLOCK)):
            pass
    return images


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    """What lies in a folder, sorted by name, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read ({error.strerror}): set data.source.path to a folder that"
            " has it."
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


def _folders(folder: pathlib.Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def _images(folder: pathlib.Path) -> list[str]:
    names = [entry.name for entry in _entries(folder) if entry.name.lower().endswith(EXTENSIONS)]
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


class _Files(Source):
    """Files with labels, by split.

    The images of every class, sorted by name, are spread evenly over a split: classes of one size
    take turns. So every part of a split, such as `train[:10%]`, holds its share of each class.
    """

    def _splits(self) -> list[str]:
        """Names of the splits."""
        raise NotImplementedError

    def _files(self, split: str) -> tuple[list[str], np.ndarray, int]:
        """Paths of a whole split, sorted in each class, their labels, and the number of classes."""
        raise NotImplementedError

    def load(self, split: str) -> ImageSet:
        """Reads and decodes one split, as RGB, on several threads."""
        name, _ = slices(split, dict.fromkeys(self._splits(), _ANY_SIZE))
        paths, labels, num_classes = self._files(name)
        _, part = slices(split, {name: len(labels)})
        when = (places_in_class(labels) + 0.5) / np.bincount(labels)[labels]
        turns = np.lexsort((labels, when))[part]
        if not len(turns):
            raise UsageError(f"split {split!r} is empty: choose a part that holds images.")
        images = _decode([paths[i] for i in turns])
        return ImageSet(images, labels[turns].astype(np.int32), num_classes)


@dataclasses.dataclass(frozen=True)
class Folder(_Files):
    """A user's own files, as torchvision's ImageFolder wants them: `PATH/SPLIT/CLASS/IMAGE.png`.

    All images must have one size. The classes are the folders in `PATH/train`, sorted by name;
    other splits, such as `PATH/test`, need not have all of them, but no others.

    Attributes:
        path: the folder that holds `train`.
    """

    path: str

    @property
    def _root(self) -> pathlib.Path:
        return pathlib.Path(self.path).expanduser()

    def _splits(self) -> list[str]:
        splits = _folders(self._root)
        if "train" not in splits:
            raise UsageError(
                f"data.source.path {self.path!r} holds no folder 'train': the images must lie in it"
                " as train/CLASS/IMAGE.png."
            )
        return splits

    def _files(self, split: str) -> tuple[list[str], np.ndarray, int]:
        folder = self._root / split
        labels = {name: label for label, name in enumerate(_folders(self._root / "train"))}
        names = _folders(folder)
        if not names:
            raise UsageError(f"{folder} holds no folders: put the images of each class into one.")
        for name in names:
            if name not in labels:
                raise UsageError(
                    f"{folder / name} is no class, {self._root / 'train'} has no such folder:"
                    " rename it, or take it out."
                )
        files = [(str(folder / c / file), labels[c]) for c in names for file in _images(folder / c)]
        paths, found = zip(*files, strict=True)
        return list(paths), np.array(found), len(labels)


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

    @property
    def _root(self) -> pathlib.Path:
        return pathlib.Path(self.path).expanduser()

    def _splits(self) -> list[str]:
        return ["train", "test"]

    def _files(self, split: str) -> tuple[list[str], np.ndarray, int]:
        classes = [name for (name,) in self._table("wnids.txt", 1)]
        files = {"train": self._train_files, "test": self._test_files}[split](classes)
        labels = {name: label for label, name in enumerate(classes)}
        return (
            [str(path) for path, _ in files],
            np.array([labels[name] for _, name in files]),
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

    def _train_files(self, classes: list[str]) -> list[tuple[pathlib.Path, str]]:
        root = self._root / "train"
        _same(_folders(root), classes, root, self._root / "wnids.txt")
        names = {name: _images(root / name / "images") for name in classes}
        fewest, most = (f(classes, key=lambda name: len(names[name])) for f in (min, max))
        if len(names[fewest]) < len(names[most]):
            raise UsageError(
                f"{root / fewest / 'images'} holds {len(names[fewest])} images, that of {most}"
                f" {len(names[most])}: unpack the archive again."
            )
        return [(root / name / "images" / file, name) for name in classes for file in names[name]]

    def _test_files(self, classes: list[str]) -> list[tuple[pathlib.Path, str]]:
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
        return [(folder / file, name) for file, name in rows]
