"""Galleries and probes: known faces, and faces whose identity is to be found among them."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from kd_jax.data.faces import FaceFolder
from kd_jax.data.folders import FileImages, images_below
from kd_jax.data.images import ImageSet
from kd_jax.data.subsets import ranks_in_class
from kd_jax.errors import UsageError

SCFACE_IDENTITIES = range(1, 131)
SCFACE_DISTANCES = {"4.2m": 1, "2.6m": 2, "1.0m": 3}
_SCFACE_CAMERAS = range(1, 6)  # those for visible light
_SCFACE_FILE = re.compile(r"\d{3}_(frontal|cam[1-5]_[1-3])")

_GALLERY_STREAM = 2**63 + 1
"""Second word of the key; no other choice has it, and so they draw from other streams."""


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
