"""Pairs of faces for verification: LFW's lists, and the packs of insightface."""

import dataclasses
import os
import pathlib

import numpy as np

from kd_jax.data.folders import FileImages
from kd_jax.data.images import StoredImages, places_in_class
from kd_jax.data.packs import read_pack
from kd_jax.errors import UsageError

_FOLDS = 10
_COLUMNS = {3: ((0, 1), (0, 2)), 4: ((0, 1), (2, 3))}
"""Where a line of pairs has name and number of its two images: of one person, or of two."""


@dataclasses.dataclass(frozen=True)
class FacePairs:
    """Pairs of images, of which it is to be told whether they show one person.

    Attributes:
        images: uint8 `[M, H, W, C]`, each image once.
        first: place in `images` of the first image of every pair, int64 `[P]`.
        second: that of the second.
        same: whether both show one person, bool `[P]`.
        fold: of the cross-validation, int64 `[P]`, from 0 on.
        name: of the set, for the results.
    """

    images: np.ndarray
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    name: str


def read_pairs(
    pairs_file: str, image_folder: str, size: tuple[int, int] | None = None
) -> FacePairs:
    """Reads the pairs of LFW, or a user's own in its format.

    The columns are separated by tabs. If the first line is two numbers, of folds and of pairs, so
    many pairs of either kind follow for every fold, as in `pairs.txt`. If it is one number, so many
    pairs of either kind follow, as in `pairsDevTest.txt`: in their order they make ten folds, each
    with a tenth of either kind.

    Args:
        pairs_file: the list.
        image_folder: holds the aligned images as `Name/Name_0001.jpg`, or `.png`.
        size: height and width of the middle of every image, which alone is used; None uses all.

    Raises:
        UsageError: if the list is not as its first line says, or an image is missing or damaged.
    """
    (*folds, number), rows = _read_table(pairs_file)
    same = np.array([len(row) == 3 for row in rows])
    blocks = np.arange(len(rows)) // (2 * number)
    expected = folds[0] if folds else 1
    if len(rows) != 2 * expected * number or np.any(np.bincount(blocks, same) != number):
        raise UsageError(
            f"{pairs_file} holds {len(rows)} pairs, {same.sum()} of one person: by its first line"
            f" it must hold {expected} times {number} of one person and {number} of two."
        )
    names = [
        f"{row[name]}/{row[name]}_{int(row[image]):04d}"
        for row in rows
        for name, image in _COLUMNS[len(row)]
    ]
    names, places = np.unique(names, return_inverse=True)
    folder = pathlib.Path(image_folder).expanduser()
    files = FileImages(
        keys=_existing(folder, names.tolist(), pairs_file),
        labels=np.zeros(len(names), np.int32),
        num_classes=1,
        size=size,
        root=str(folder),
    )
    return FacePairs(
        images=files.take(np.arange(len(files))),
        first=places[0::2],
        second=places[1::2],
        same=same,
        fold=blocks if folds else places_in_class(same) * _FOLDS // number,
        name=pathlib.Path(pairs_file).stem,
    )


def _read_table(path: str) -> tuple[list[int], list[list[str]]]:
    """The numbers in the first line of a list of pairs, and the cells of the other lines."""
    try:
        text = pathlib.Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): name a list of pairs.") from error
    lines = [line.strip().split("\t") for line in text.splitlines() if line.strip()]
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if len(header) not in (1, 2) or not all(cell.isdecimal() and int(cell) for cell in header):
        raise UsageError(
            f"{path} does not begin with a line of the numbers of folds and of pairs, or of pairs"
            " alone: restore the file."
        )
    for row in rows:
        columns = _COLUMNS.get(len(row), ())
        if not columns or not all(row[image].isdecimal() for _, image in columns):
            raise UsageError(
                f"{path} has the line {' '.join(row)!r}, but NAME, NUMBER, NUMBER or NAME, NUMBER,"
                " NAME, NUMBER are needed, with tabs between: restore the file."
            )
    return [int(cell) for cell in header], rows


def _existing(folder: pathlib.Path, names: list[str], said_by: str) -> np.ndarray:
    """Adds to names of images how their files end; raises `UsageError` if some are missing."""
    found, missing = [], []
    for name in names:
        files = [name + end for end in (".jpg", ".png") if (folder / (name + end)).is_file()]
        (found if files else missing).append(files[0] if files else name)
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(names)} images that {said_by} names are missing, first"
            f" {folder / missing[0]}.jpg: add them, or name the folder that holds them."
        )
    return np.array(found, object)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PackImages(StoredImages):
    """Images in a pack, whose keys are their places there."""

    files: list[bytes]
    path: str

    def name(self, key: int) -> str:
        return f"image {key} of {self.path}"

    def encoded(self, key: int) -> bytes:
        return self.files[key]


def read_bin(path: str, size: tuple[int, int] | None = None) -> FacePairs:
    """Reads a pack of pairs of insightface: `lfw.bin`, `cfp_fp.bin`, `agedb_30.bin` and so on.

    The folds are ten blocks of consecutive pairs, as for `pairs.txt`.

    Args:
        path: of the pack, a pickle; only bytes, lists and truth values are ever made of it.
        size: height and width of the middle of every image, which alone is used; None uses all.

    Raises:
        UsageError: if the file is no such pack or asks to run anything, or an image is damaged.
    """
    path = os.path.expanduser(path)
    files, same = read_pack(path)
    _, keys, places = np.unique(np.array(files, object), return_index=True, return_inverse=True)
    images = _PackImages(
        keys=keys,
        labels=np.zeros(len(keys), np.int32),
        num_classes=1,
        size=size,
        files=files,
        path=path,
    )
    return FacePairs(
        images=images.take(np.arange(len(keys))),
        first=places[0::2],
        second=places[1::2],
        same=same,
        fold=np.arange(len(same)) * _FOLDS // len(same),
        name=pathlib.Path(path).stem,
    )
