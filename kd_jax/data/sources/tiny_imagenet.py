"""Tiny-ImageNet, as its archive unpacks."""

import dataclasses
import pathlib

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.base import SOURCES
from kd_jax.data.image_files import FileSource, folder_names, image_names
from kd_jax.data.local_files import read_text


@SOURCES.register("tiny_imagenet")
@dataclasses.dataclass(frozen=True)
class TinyImageNet(FileSource):
    """Tiny-ImageNet: 200 classes of ImageNet at 64x64, with 500 training images per class.

    Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015. The source reads the files of the
    unpacked original archive, `tiny-imagenet-200.zip`. The splits are `train` and `test`. The split
    `test` is the folder `val` of the archive, with 50 images per class, because the folder `test`
    of the archive has no labels. The label of a class is its line in `wnids.txt`, counted from 0.
    Gray images become RGB. `fit` enlarges the images, such as to 224x224.

    The same images as arrays, uint8 `[N, 64, 64, 3]`, can be read by `Npz`.

    Attributes:
        path: the folder `tiny-imagenet-200`, which holds `wnids.txt`.
    """

    def _splits(self) -> list[str]:
        return ["train", "test"]

    def _files(self, split: str) -> tuple[list[str], list[int], int]:
        classes = [name for (name,) in self._table("wnids.txt", 1)]
        files = {"train": self._train_files, "test": self._test_files}[split](classes)
        labels = {name: label for label, name in enumerate(classes)}
        return [path for path, _ in files], [labels[name] for _, name in files], len(classes)

    def _table(self, name: str, columns: int) -> list[list[str]]:
        """Returns the first columns of a text file, whose first column has no value twice."""
        path = self._root / name
        try:
            rows = [line.split()[:columns] for line in read_text(path).splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{path} cannot be read ({reason(error)}): set data.source.path to the folder"
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
        """Returns path and class of every training image."""
        root = self._root / "train"
        _check_same(folder_names(root), classes, root, self._root / "wnids.txt")
        names = {name: image_names(root / name / "images", allow_none=False) for name in classes}
        fewest, most = (f(classes, key=lambda name: len(names[name])) for f in (min, max))
        if len(names[fewest]) < len(names[most]):
            raise UsageError(
                f"{root / fewest / 'images'} holds {len(names[fewest])} images, but that of {most}"
                f" {len(names[most])}: unpack the archive again."
            )
        return [(f"train/{name}/images/{f}", name) for name in classes for f in names[name]]

    def _test_files(self, classes: list[str]) -> list[tuple[str, str]]:
        """Returns path and class of every test image."""
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
        files = image_names(folder, allow_none=False)
        _check_same(files, [file for file, _ in rows], folder, annotations)
        return [(f"val/images/{file}", name) for file, name in rows]


def _check_same(
    names: list[str], listed: list[str], folder: pathlib.Path, list_path: pathlib.Path
) -> None:
    """Raises `UsageError` unless the names in a folder are those in a list."""
    missing, surplus = sorted(set(listed) - set(names)), sorted(set(names) - set(listed))
    if missing:
        raise UsageError(
            f"{folder / missing[0]} is missing, but {list_path} names it: unpack the archive again."
        )
    if surplus:
        raise UsageError(
            f"{folder / surplus[0]} is not named in {list_path}: unpack the archive again."
        )
