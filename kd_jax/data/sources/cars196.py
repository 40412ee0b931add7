"""Cars196, as its archive unpacks or with one folder per class, with the split of retrieval."""

import dataclasses
import pathlib

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.base import SOURCES
from kd_jax.data.class_split import ClassFiles, ClassSplitSource, by_folder, by_number, check_path
from kd_jax.data.image_files import folder_names
from kd_jax.data.local_files import open_file

_ANNOTATIONS = "cars_annos.mat"
_CLASSES, _TRAIN_CLASSES = 196, 98


@SOURCES.register("cars196")
@dataclasses.dataclass(frozen=True)
class Cars196(ClassSplitSource):
    """Cars196 (Stanford Cars): 16,185 photographs of 196 models of cars, of many sizes.

    Krause et al., 3D Object Representations for Fine-Grained Categorization, 2013. The source reads
    `cars_annos.mat` and the images that it names, or else one folder per class, `PATH/CLASS/IMAGE`,
    where the 196 classes are sorted by name. The splits are those of retrieval, as in Oh Song et
    al., CVPR 2016: `train` has the classes 1 to 98, 8,054 images, and `test` the classes 99 to 196,
    8,131 images. Whole images are used, not the boxes of the annotations. The images need `fit`.

    Attributes:
        path: the folder that holds `cars_annos.mat` and `car_ims`, or one folder per class.
    """

    def _classes(self) -> ClassFiles:
        annotations = self._root / _ANNOTATIONS
        classes = _annotated(annotations) if annotations.exists() else self._folders()
        return ClassFiles(classes[:_TRAIN_CLASSES], classes[_TRAIN_CLASSES:])

    def _folders(self) -> list[list[str]]:
        number = len(folder_names(self._root))
        if number != _CLASSES:
            raise UsageError(
                f"data.source.path {self.path!r} holds no {_ANNOTATIONS}, and {number} folders"
                f" instead of {_CLASSES}: name the folder of the unpacked archive, or one with a"
                " folder per class."
            )
        return by_folder(self._root)


def _annotated(path: pathlib.Path) -> list[list[str]]:
    """Returns the images of each class that a file of annotations names."""
    from scipy.io import loadmat  # JAX needs SciPy, too

    remedy = "unpack the archive again"
    try:
        with open_file(path) as file:
            rows = loadmat(file, squeeze_me=True, variable_names=("annotations",))["annotations"]
        names = [str(name) for name in rows["relative_im_path"]]
        numbers = [int(number) for number in rows["class"]]
    except Exception as error:  # damage raises errors of many kinds
        raise UsageError(f"{path} cannot be read ({reason(error)}): {remedy}.") from error
    if set(numbers) != set(range(1, _CLASSES + 1)):
        raise UsageError(f"{path} does not have exactly the classes 1 to {_CLASSES}: {remedy}.")
    return by_number([check_path(name, path, remedy) for name in names], numbers)
