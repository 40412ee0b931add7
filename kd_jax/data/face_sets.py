"""Faces to evaluate on: pairs for verification, galleries and probes for identification."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from kd_jax.data.faces import FaceFolder
from kd_jax.data.folders import FileImages, images_below
from kd_jax.data.images import ImageSet, StoredImages, places_in_class
from kd_jax.data.packs import read_pack
from kd_jax.data.subsets import ranks_in_class
from kd_jax.errors import UsageError

_FOLDS = 10
_COLUMNS = {3: ((0, 1), (0, 2)), 4: ((0, 1), (2, 3))}
"""Where a line of pairs has name and number of its two images: of one person, or of two."""

SCFACE_IDENTITIES = range(1, 131)
SCFACE_DISTANCES = {"4.2m": 1, "2.6m": 2, "1.0m": 3}
_SCFACE_CAMERAS = range(1, 6)  # those for visible light
_SCFACE_FILE = re.compile(r"\d{3}_(frontal|cam[1-5]_[1-3])")

_GALLERY_STREAM = 2**63 + 1
"""Second word of the key; no other choice has it, and so they draw from other streams."""


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


@dataclasses.dataclass(frozen=True)
class FaceGallery:
    """Known faces, and faces whose identity is to be found among them.

    Attributes:
        gallery: the known faces; the label is the identity.
        probes: the others, by name of their set, with labels of the gallery.
        name: of the set, for the results.
    """

    gallery: ImageSet
    probes: dict[str, ImageSet]
    name: str


def read_scface(
    folder: str,
    size: tuple[int, int] | None = None,
    identities: Iterable[int] = SCFACE_IDENTITIES,
) -> FaceGallery:
    """Reads SCface: mugshots as gallery, and as probes five cameras at each of three distances.

    Grgic, Delac and Grgic, SCface - surveillance cameras face database, 2011. The images, aligned
    and of one size, lie somewhere below the folder under the names of the database:
    `001_frontal.jpg`, and `001_cam1_1.jpg` for camera 1 at 4.2 m, `_2` at 2.6 m, `_3` at 1.0 m.
    Other files, such as those of the infrared cameras, are left alone.

    Args:
        folder: where they lie.
        size: height and width of the middle of every image, which alone is used; None uses all.
        identities: numbers of the persons, 1 to 130; the label is the place among them.

    Returns:
        A gallery with one image a person and the probes `4.2m`, `2.6m` and `1.0m`, five each.

    Raises:
        UsageError: if images are missing, doubled, damaged or of different sizes.
    """
    persons = list(identities)
    if not persons or len({*persons} & {*SCFACE_IDENTITIES}) < len(persons):
        raise UsageError(f"identities {persons} of SCface must be different numbers, 1 to 130.")
    root = pathlib.Path(folder).expanduser()
    sets = {"gallery": [f"{person:03d}_frontal" for person in persons]} | {
        name: [f"{person:03d}_cam{c}_{distance}" for person in persons for c in _SCFACE_CAMERAS]
        for name, distance in SCFACE_DISTANCES.items()
    }
    names = [name for some in sets.values() for name in some]
    found = _scface_files(root)
    if missing := [name for name in names if name not in found]:
        raise UsageError(
            f"{root} lacks {len(missing)} of {len(names)} images of SCface, first"
            f" {missing[0]}.jpg: add them, or choose identities that are complete."
        )
    labels = [np.repeat(np.arange(len(persons)), len(s) // len(persons)) for s in sets.values()]
    images = FileImages(
        keys=np.array([found[name] for name in names], object),
        labels=np.concatenate(labels).astype(np.int32),
        num_classes=len(persons),
        size=size,
        root=str(root),
    ).in_memory()
    ends = np.cumsum([len(some) for some in sets.values()])
    parts = {
        name: images.keep(np.arange(end - len(sets[name]), end))
        for name, end in zip(sets, ends, strict=True)
    }
    return FaceGallery(parts.pop("gallery"), parts, "scface")


def _scface_files(root: pathlib.Path) -> dict[str, str]:
    """Paths below a folder of the images of SCface, by name without its end."""
    found: dict[str, str] = {}
    for path in images_below(root):
        name = pathlib.PurePath(path).stem
        if _SCFACE_FILE.fullmatch(name):
            if name in found:
                raise UsageError(
                    f"{root} holds {name} twice, as {found[name]} and {path}: take one out."
                )
            found[name] = path
    return found


def read_gallery(
    folder: str, size: tuple[int, int] | None, num_identities: int, seed: int = 0
) -> FaceGallery:
    """Reads random identities of a folder: one image of each is known, the others are probes.

    Args:
        folder: holds a folder an identity.
        size: height and width of the middle of every image, which alone is used; None uses all.
        num_identities: how many to choose, of those with two images or more.
        seed: of the choice.

    Raises:
        UsageError: if there are too few identities, or images cannot be used.
    """
    stored = FaceFolder(folder, min_images=1, test_images=0, size=size).open("train")
    known, asked = random_gallery(stored.labels, num_identities, seed=seed)
    images = stored.keep(np.concatenate([known, asked])).in_memory()
    parts = np.split(np.arange(len(images)), [len(known)])
    gallery, probes = (images.keep(part) for part in parts)
    return FaceGallery(gallery, {"probes": probes}, pathlib.Path(folder).name)


def random_gallery(
    labels: np.ndarray, num_identities: int, gallery_images: int = 1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses identities and parts their images into gallery and probes, as is done with UCCS.

    Fewer identities of the same seed are among the more, and their gallery images stay the same.
    The choice comes from the raw words of Philox, which NumPy keeps the same in all versions.

    Args:
        labels: identities of a set of images, int `[N]`, from 0 on.
        num_identities: how many to choose, of those that have a probe too.
        gallery_images: how many images of each are known; the rest are probes.
        seed: of the choice, 0 to 2**64 - 1.

    Returns:
        Indices of the gallery's images and of the probes, int64, ascending.

    Raises:
        UsageError: if too few identities have more than `gallery_images` images.
    """
    sizes = np.bincount(labels)
    eligible = np.flatnonzero(sizes > gallery_images)
    if not (0 < num_identities <= len(eligible) and gallery_images > 0):
        raise UsageError(
            f"{num_identities} identities with {gallery_images} gallery images and a probe are"
            f" asked for, but {len(eligible)} have so many: ask for 1 of each or more, and not for"
            " too many."
        )
    generator = np.random.Philox(key=np.array([seed, _GALLERY_STREAM], np.uint64))
    words = generator.random_raw(len(sizes) + len(labels))
    order = eligible[np.argsort(words[eligible], kind="stable")]
    chosen = np.isin(labels, order[:num_identities])
    known = ranks_in_class(labels, words[len(sizes) :]) < gallery_images
    return np.flatnonzero(chosen & known), np.flatnonzero(chosen & ~known)
