"""Pairs of faces for verification: the lists of LFW, and the packs of insightface."""

import dataclasses
import os
import pathlib

import numpy as np

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.class_positions import positions_in_class
from kd_jax.data.image_files import FileImages
from kd_jax.data.images import StoredImages
from kd_jax.data.local_files import expanded, is_count, read_text
from kd_jax.evaluation.faces.packs import read_pack

_FOLDS = 10
_COLUMNS = {3: ((0, 1), (0, 2)), 4: ((0, 1), (2, 3))}
"""Columns (name, number) of the two images of a line, by its number of columns: one or two
persons."""
_NO_NAME = frozenset("/\\\0")  # characters that are in no name of a file


@dataclasses.dataclass(frozen=True)
class FacePairs:
    """Pairs of images, each of one person or of two.

    Attributes:
        images: uint8 `[M, H, W, C]`, each image once.
        first: position in `images` of the first image of every pair, int64 `[P]`.
        second: position in `images` of the second image, int64 `[P]`.
        same: True for pairs of one person, bool `[P]`.
        fold: fold of the cross-validation, int64 `[P]`, 0 to K - 1.
        name: name of the set in results.
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
    """Reads the pairs of LFW, or a user's pairs in the same format.

    Tabs separate the columns. If the first line has two numbers, the number of folds and the number
    of pairs, each fold has this number of pairs of either kind, as in `pairs.txt`. If it has one
    number, the list has this number of pairs of either kind, as in `pairsDevTest.txt`; they make
    ten folds in their order, each with a tenth of either kind.

    Args:
        pairs_file: path of the list.
        image_folder: folder of the aligned images, `Name/Name_0001.jpg` or `.png`.
        size: height and width of the center that is cut out of every image; None uses whole images.

    Raises:
        UsageError: if the list contradicts its first line, or an image is missing or damaged.
    """
    (*folds, number), rows = _read_table(pairs_file)
    same = np.array([len(row) == 3 for row in rows])
    blocks = np.arange(len(rows)) // (2 * number)
    expected = folds[0] if folds else 1
    if len(rows) != 2 * expected * number or np.any(np.bincount(blocks, same) != number):
        raise UsageError(
            f"{pairs_file} holds {len(rows)} pairs, {same.sum()} of one person, but its first line"
            f" announces {expected} times {number} of one person and {number} of two: restore the"
            " file."
        )
    names = [
        f"{row[name]}/{row[name]}_{int(row[image]):04d}"
        for row in rows
        for name, image in _COLUMNS[len(row)]
    ]
    distinct, positions = np.unique(names, return_inverse=True)
    folder = expanded(image_folder)
    files = FileImages(
        keys=_existing(folder, distinct.tolist(), pairs_file),
        labels=np.zeros(len(distinct), np.int32),
        num_classes=1,
        size=size,
        root=str(folder),
    )
    return FacePairs(
        images=files.take(np.arange(len(files))),
        first=positions[0::2],
        second=positions[1::2],
        same=same,
        fold=blocks if folds else positions_in_class(same) * _FOLDS // number,
        name=pathlib.Path(pairs_file).stem,
    )


def _read_table(path: str) -> tuple[list[int], list[list[str]]]:
    """Returns the numbers in the first line of a list of pairs, and the cells of the others."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({reason(error)}): name a list of pairs."
        ) from error
    lines = [line.strip().split("\t") for line in text.splitlines() if line.strip()]
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if len(header) not in (1, 2) or not all(is_count(cell) and int(cell) for cell in header):
        raise UsageError(
            f"{path} does not begin with a line of the numbers of folds and of pairs, or of pairs"
            " alone: restore the file."
        )
    for row in rows:
        columns = _COLUMNS.get(len(row), ())
        if not columns or not all(is_count(row[image]) for _, image in columns):
            raise UsageError(
                f"{path} has the line {' '.join(row)[:200]!r}, but NAME, NUMBER, NUMBER or NAME,"
                " NUMBER, NAME, NUMBER are needed, with tabs between: restore the file."
            )
        for name, _ in columns:
            if row[name] in (".", "..") or not _NO_NAME.isdisjoint(row[name]):
                raise UsageError(
                    f"{path} has the name {row[name][:200]!r}, which is not the name of a folder in"
                    " the image folder: restore the file."
                )
    return [int(cell) for cell in header], rows


def _existing(folder: pathlib.Path, names: list[str], listed_in: str) -> np.ndarray:
    """Adds the extensions to names of images; raises `UsageError` if some are missing."""
    existing: list[str] = []
    missing: list[str] = []
    for name in names:
        files = [name + end for end in (".jpg", ".png") if os.path.isfile(folder / (name + end))]
        (existing if files else missing).append(files[0] if files else name)
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(names)} images that {listed_in} names are missing, first"
            f" {folder}/{missing[0]:.200}.jpg: add them, or name the folder that holds them."
        )
    return np.array(existing, object)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PackImages(StoredImages):
    """Images in a pack, whose keys are their positions in it."""

    files: list[bytes]
    path: str

    def name(self, key: int) -> str:
        return f"image {key} of {self.path}"

    def encoded(self, key: int) -> bytes:
        return self.files[key]


def read_bin(path: str, size: tuple[int, int] | None = None) -> FacePairs:
    """Reads a pack of pairs of insightface: `lfw.bin`, `cfp_fp.bin`, `agedb_30.bin` and others.

    The folds are ten blocks of consecutive pairs, as for `pairs.txt`.

    Args:
        path: path of the pack, a pickle file. It can create bytes, lists and booleans only.
        size: height and width of the center that is cut out of every image; None uses whole images.

    Raises:
        UsageError: if the file is no such pack or calls any code, or an image is damaged.
    """
    path = str(expanded(path))
    files, same = read_pack(path)
    _, keys, positions = np.unique(np.array(files, object), return_index=True, return_inverse=True)
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
        first=positions[0::2],
        second=positions[1::2],
        same=same,
        fold=np.arange(len(same)) * _FOLDS // len(same),
        name=pathlib.Path(path).stem,
    )
