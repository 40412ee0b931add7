"""Faces to train on, one folder per identity."""

import dataclasses

import numpy as np

from kd_jax.core.errors import UsageError
from kd_jax.data.base import SOURCES
from kd_jax.data.identities import Identities
from kd_jax.data.image_files import FileImages, folder_names, image_names
from kd_jax.data.images import StoredImages
from kd_jax.data.local_files import expanded


@SOURCES.register("face_folder")
@dataclasses.dataclass(frozen=True)
class FaceFolder(Identities):
    """Faces as files `PATH/IDENTITY/IMAGE.jpg`: LFW, CASIA-WebFace, VGGFace2, DigiFace-1M.

    The identities are the folders in `PATH`, sorted by name. The other attributes are those of
    `Identities`.
    """

    def _all(self) -> tuple[StoredImages, list[str]]:
        root = expanded(self.path)
        names = folder_names(root)
        files = [image_names(root / name) for name in names]
        if not any(files):
            raise UsageError(
                f"data.source.path {self.path!r} holds no folders with images: put the images"
                " there as IDENTITY/IMAGE.jpg."
            )
        keys = [f"{name}/{file}" for name, some in zip(names, files, strict=True) for file in some]
        images = FileImages(
            keys=np.array(keys, object),
            labels=np.repeat(np.arange(len(names), dtype=np.int32), [len(some) for some in files]),
            num_classes=len(names),
            size=self.size,
            root=str(root),
        )
        return images, names
