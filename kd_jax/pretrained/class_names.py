"""Names of classes, and the shape of the images that they are of, for the description of a network.

A source of the user's may have a method `class_names()`, which returns one text per class.
"""

import dataclasses
import functools

from kd_jax.core.errors import UsageError
from kd_jax.data import Fit
from kd_jax.data.image_files import folder_names
from kd_jax.data.local_files import expanded, read_text
from kd_jax.data.npz_files import read_npz
from kd_jax.data.sources.digits import Digits
from kd_jax.data.sources.folder import Folder
from kd_jax.data.sources.npz import Npz
from kd_jax.data.sources.tfds import Tfds
from kd_jax.data.sources.tiny_imagenet import TinyImageNet
from kd_jax.pretrained.info import NetworkInfo


@functools.singledispatch
def class_names(source: object) -> tuple[str, ...]:
    """Returns the names of the classes of a source in the order of the labels.

    It is empty for a source that has none.
    """
    names = getattr(source, "class_names", tuple)
    return tuple(map(str, names()))


@class_names.register
def _(source: Digits) -> tuple[str, ...]:
    return tuple("0123456789")


@class_names.register
def _(source: Folder) -> tuple[str, ...]:
    return tuple(folder_names(expanded(source.path) / "train"))


@class_names.register
def _(source: Npz) -> tuple[str, ...]:
    """Reads the optional array `class_names`, texts `[C]`, of the training file."""
    path = source.path.replace("{split}", "train")
    arrays, _ = read_npz(path, ("class_names",), f"data.source.path {path!r}", "restore the file")
    names = arrays.get("class_names")
    return () if names is None or names.ndim != 1 else tuple(map(str, names.tolist()))


@class_names.register
def _(source: Tfds) -> tuple[str, ...]:
    return tuple(source._builder().info.features[source.label_key].names)


@class_names.register
def _(source: TinyImageNet) -> tuple[str, ...]:
    """Reads the words of each class, such as "goldfish, Carassius auratus"."""
    root = expanded(source.path)
    numbers = read_text(root / "wnids.txt").split()
    lines = read_text(root / "words.txt").splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(words.get(number, number) for number in numbers)


def described(info: NetworkInfo, source: object, image_shape: tuple[int, int, int]) -> NetworkInfo:
    """Returns the description of a network with the names of the classes and the images' shape.

    Names that cannot be read, or that are not one text per class, are left out.

    Args:
        info: description of the network.
        source: source of the training images.
        image_shape: height, width and number of channels of the training images.
    """
    try:
        names = class_names(source)
    except (OSError, ValueError):  # a file of names that is missing: training needs none
        names = ()
    if len(names) != info.num_classes or not all(names):
        names = ()
    *size, channels = image_shape
    if channels not in (1, 3):
        return dataclasses.replace(info, classes=names)
    fit = getattr(source, "fit", None) or Fit()
    fit = dataclasses.replace(fit, size=tuple(size), gray=channels == 1)
    return dataclasses.replace(info, classes=names, fit=fit)


def read_class_names(path: str, number: int) -> tuple[str, ...]:
    """Reads a text file with one name per line, in the order of the logits.

    Args:
        path: the file.
        number: number of classes.

    Raises:
        UsageError: if the file cannot be read, or does not have one name per class.
    """
    remedy = f"name a text file with {number} lines, the names of the classes"
    try:
        names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise UsageError(f"--classes={path} cannot be read: {remedy}.") from error
    if len(names) != number:
        raise UsageError(f"--classes={path} has {len(names)} names: {remedy}.")
    return names
