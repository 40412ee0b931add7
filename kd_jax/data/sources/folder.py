"""A user's own image files, one folder per class."""

import dataclasses

from kd_jax.core.errors import UsageError
from kd_jax.data.base import SOURCES
from kd_jax.data.image_files import FileSource, folder_names, image_names


@SOURCES.register("folder")
@dataclasses.dataclass(frozen=True)
class Folder(FileSource):
    """A user's own files, in the layout of torchvision's ImageFolder: `PATH/SPLIT/CLASS/IMAGE.png`.

    The classes are the folders in `PATH/train`, sorted by name. The other splits, such as
    `PATH/test`, may lack some of these classes, but have no other ones.

    Attributes:
        path: the folder that holds `train`.
    """

    def _splits(self) -> list[str]:
        splits = folder_names(self._root)
        if "train" not in splits:
            raise UsageError(
                f"data.source.path {self.path!r} holds no folder 'train': put the training images"
                " there as train/CLASS/IMAGE.png."
            )
        return splits

    def _files(self, split: str) -> tuple[list[str], list[int], int]:
        folder = self._root / split
        labels = {name: label for label, name in enumerate(folder_names(self._root / "train"))}
        names = folder_names(folder)
        if not names:
            raise UsageError(
                f"{folder} holds no folders: put the images of each class into one folder."
            )
        for name in names:
            if name not in labels:
                raise UsageError(
                    f"{folder / name} is not a class, because {self._root / 'train'} has no such"
                    " folder: rename or remove it."
                )
        paths, numbers = [], []
        for name in names:
            files = image_names(folder / name, allow_none=False)
            paths += [f"{split}/{name}/{file}" for file in files]
            numbers += [labels[name]] * len(files)
        return paths, numbers, len(labels)
