"""A user's own image files, one folder per class, for retrieval of classes never trained on."""

import dataclasses

from kd_jax.core.errors import UsageError
from kd_jax.data.base import SOURCES
from kd_jax.data.class_split import ClassFiles, ClassSplitSource, by_folder


@SOURCES.register("class_folders")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassFolders(ClassSplitSource):
    """A user's own files `PATH/CLASS/IMAGE.jpg`, divided into training classes and test classes.

    The classes are the folders in `PATH`, sorted by name. The first `train_classes` of them are the
    split `train`, the others are the split `test`.

    Attributes:
        path: the folder that holds one folder per class.
        train_classes: number of training classes, the first by name; the others are test classes.
    """

    train_classes: int

    def __post_init__(self):
        if self.train_classes < 1:
            raise ValueError(f"train_classes must be 1 or more, not {self.train_classes}")

    def _classes(self) -> ClassFiles:
        classes = by_folder(self._root)
        if len(classes) <= self.train_classes:
            raise UsageError(
                f"data.source.path {self.path!r} holds {len(classes)} folders of classes, so that"
                f" none is left for the test after train_classes = {self.train_classes}: put the"
                " images there as CLASS/IMAGE.jpg, or make train_classes smaller."
            )
        return ClassFiles(classes[: self.train_classes], classes[self.train_classes :])
