"""Galleries and probes: known faces, and faces whose identity is searched for among them."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.data.class_positions import ranks_in_class
from kd_jax.data.image_files import FileImages, images_below
from kd_jax.data.images import ImageSet
from kd_jax.data.local_files import expanded
from kd_jax.data.sources.face_folder import FaceFolder

SCFACE_IDENTITIES = range(1, 131)
SCFACE_DISTANCES = {"4.2m": 1, "2.6m": 2, "1.0m": 3}
_SCFACE_CAMERAS = range(1, 6)  # the cameras for visible light
_SCFACE_FILE = re.compile(r"\d{3}_(frontal|cam[1-5]_[1-3])")

_GALLERY_STREAM = 2**63 + 1
"""Second word of the random key. All other random choices have other words, hence other streams."""


@dataclasses.dataclass(frozen=True)
class FaceGallery:
    """Known faces, and faces whose identity is searched for among them.

    Attributes:
        gallery: known faces; the label is the identity.
        probes: sets of faces to identify, by name, with labels of the gallery.
        name: name of the whole set in results.
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

    Grgic, Delac and Grgic, SCface - surveillance cameras face database, 2011. The images are
    aligned, have one size, are anywhere below the folder, and have the names of the database:
    `001_frontal.jpg`, and `001_cam1_1.jpg` for camera 1 at 4.2 m, `_2` at 2.6 m, `_3` at 1.0 m.
    Other files, such as those of the infrared cameras, are ignored.

    Args:
        folder: folder of the images.
        size: height and width of the center that is cut out of every image; None uses whole images.
        identities: numbers of the persons, 1 to 130; the label is the position in this sequence.

    Returns:
        A gallery with one image per person, and the probe sets `4.2m`, `2.6m` and `1.0m` with five
        images per person each.

    Raises:
        UsageError: if images are missing, present twice, damaged or of different sizes.
    """
    persons = list(identities)
    if not persons or len({*persons} & {*SCFACE_IDENTITIES}) < len(persons):
        raise UsageError(f"identities {persons} of SCface must be different numbers, 1 to 130.")
    root = expanded(folder)
    sets = {"gallery": [f"{person:03d}_frontal" for person in persons]} | {
        name: [f"{person:03d}_cam{c}_{distance}" for person in persons for c in _SCFACE_CAMERAS]
        for name, distance in SCFACE_DISTANCES.items()
    }
    names = [name for some in sets.values() for name in some]
    paths = _scface_files(root)
    if missing := [name for name in names if name not in paths]:
        raise UsageError(
            f"{root} lacks {len(missing)} of {len(names)} images of SCface, first"
            f" {missing[0]}.jpg: add them, or choose identities that are complete."
        )
    labels = [np.repeat(np.arange(len(persons)), len(s) // len(persons)) for s in sets.values()]
    images = FileImages(
        keys=np.array([paths[name] for name in names], object),
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
    """Returns the paths below a folder of the images of SCface, by name without extension."""
    paths: dict[str, str] = {}
    for path in images_below(root):
        name = pathlib.PurePath(path).stem
        if _SCFACE_FILE.fullmatch(name):
            if name in paths:
                raise UsageError(
                    f"{root} holds {name} twice, as {paths[name]} and {path}: remove one of them."
                )
            paths[name] = path
    return paths


def read_gallery(
    folder: str,
    size: tuple[int, int] | None = None,
    num_identities: int | None = None,
    seed: int = 0,
    gallery_images: int = 1,
    probe_fraction: float = 0.0,
    min_images: int = 1,
) -> FaceGallery:
    """Reads random identities of a folder: some images of each are known, the others are probes.

    With `probe_fraction` gallery and probes are the splits `train` and `test` of the source
    `face_folder` with the same `seed`, `test_fraction`, `identities` and `min_images`. The error
    of a classifier that was trained on the gallery can be compared with that of its embeddings.

    Args:
        folder: folder with one folder per identity.
        size: height and width of the center that is cut out of every image; None uses whole images.
        num_identities: number of identities to choose; None is all that have a probe.
        seed: seed of the choice.
        gallery_images: number of known images per identity.
        probe_fraction: fraction of the images of each identity that are probes; the others are
            known. 0 takes `gallery_images` known images instead.
        min_images: smallest number of images of an identity; those with fewer are left out, and so
            are those without a probe.

    Returns:
        The gallery and one set of probes, `probes`.

    Raises:
        UsageError: if there are too few identities, or images cannot be used.
    """
    name = pathlib.Path(folder).name
    if probe_fraction:
        source = FaceFolder(
            folder,
            min_images=max(2, min_images),
            size=size,
            identities=num_identities,
            test_fraction=probe_fraction,
            seed=seed,
        )
        return FaceGallery(source.load("train"), {"probes": source.load("test")}, name)
    stored = FaceFolder(folder, min_images=min_images, test_images=0, size=size).open("train")
    known, unknown = random_gallery(stored.labels, num_identities, gallery_images, seed)
    images = stored.keep(np.concatenate([known, unknown])).in_memory()
    parts = np.split(np.arange(len(images)), [len(known)])
    gallery, probes = (images.keep(part) for part in parts)
    return FaceGallery(gallery, {"probes": probes}, name)


def random_gallery(
    labels: np.ndarray, num_identities: int | None = None, gallery_images: int = 1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses identities and divides their images into gallery and probes.

    The identities of a smaller number are among those of a greater number with the same seed, and
    their gallery images are the same. The choice uses the raw words of Philox, which are the same
    in all versions of NumPy.

    Args:
        labels: identities of the images, int `[N]`, 0 or more.
        num_identities: number of identities to choose among those that have a probe; None is all.
        gallery_images: number of known images per identity; the others are probes.
        seed: seed of the choice, 0 to 2**64 - 1.

    Returns:
        Indices of the gallery's images and of the probes, int64, ascending.

    Raises:
        UsageError: if too few identities have more than `gallery_images` images.
    """
    if gallery_images < 1 or (num_identities is not None and num_identities < 1):
        raise UsageError(
            f"{num_identities} identities with {gallery_images} gallery images are impossible:"
            " choose 1 or more of both."
        )
    sizes = np.bincount(labels)
    eligible = np.flatnonzero(sizes > gallery_images)
    number = num_identities or len(eligible)
    if not 0 < number <= len(eligible):
        raise UsageError(
            f"{number or 1} identities with {gallery_images} gallery images and a probe are asked"
            f" for, but {len(eligible)} have so many images: reduce the number of identities or of"
            " gallery images."
        )
    generator = np.random.Philox(key=np.array([seed, _GALLERY_STREAM], np.uint64))
    words = generator.random_raw(len(sizes) + len(labels))
    order = eligible[np.argsort(words[eligible], kind="stable")]
    chosen = np.isin(labels, order[:number])
    known = ranks_in_class(labels, words[len(sizes) :]) < gallery_images
    return np.flatnonzero(chosen & known), np.flatnonzero(chosen & ~known)
