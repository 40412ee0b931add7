"""CUB-200-2011, as its archive unpacks, with the split of retrieval."""

import dataclasses

from kd_jax.core.errors import UsageError
from kd_jax.data.base import SOURCES
from kd_jax.data.class_split import (
    ClassFiles,
    ClassSplitSource,
    by_number,
    check_path,
    class_number,
    read_rows,
)

_CLASSES, _TRAIN_CLASSES = 200, 100
_REMEDY = "set data.source.path to the folder CUB_200_2011 of the unpacked archive"


@SOURCES.register("cub200")
@dataclasses.dataclass(frozen=True)
class Cub200(ClassSplitSource):
    """Caltech-UCSD Birds: 11,788 whole images of 200 classes of birds, of many sizes.

    Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011. The source reads `images.txt`,
    `image_class_labels.txt` and the folder `images` of the archive. The splits are those of
    retrieval, as in Oh Song et al., CVPR 2016: `train` has the classes 1 to 100, 5,864 images, and
    `test` the classes 101 to 200, 5,924 images. The images need `fit`.

    Attributes:
        path: the folder `CUB_200_2011`, which holds `images.txt`.
    """

    def _classes(self) -> ClassFiles:
        names, labels = self._root / "images.txt", self._root / "image_class_labels.txt"
        numbers = {
            image: class_number(text, labels, _REMEDY)
            for image, text in read_rows(labels, 2, _REMEDY)
        }
        images = dict(read_rows(names, 2, _REMEDY))
        if images.keys() != numbers.keys():
            raise UsageError(
                f"{names} and {labels} list different images: unpack the archive again."
            )
        if set(numbers.values()) != set(range(1, _CLASSES + 1)):
            raise UsageError(
                f"{labels} does not have exactly the classes 1 to {_CLASSES}: unpack the archive"
                " again, or use the source class_folders for a part of the classes."
            )
        paths = [f"images/{check_path(name, names, _REMEDY)}" for name in images.values()]
        classes = by_number(paths, [numbers[image] for image in images])
        return ClassFiles(classes[:_TRAIN_CLASSES], classes[_TRAIN_CLASSES:])
