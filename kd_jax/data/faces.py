"""Faces to train on: a folder an identity, or the packs of insightface."""

import dataclasses
import pathlib

import numpy as np

from kd_jax.data.folders import FileImages, folder_names, image_names
from kd_jax.data.identities import Identities
from kd_jax.data.images import StoredImages
from kd_jax.data.recordio import ImageRecords
from kd_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class FaceFolder(Identities):
    """Faces as files `PATH/IDENTITY/IMAGE.jpg`: LFW, CASIA-WebFace, VGGFace2, DigiFace-1M.

    All images must have one size. The identities are the folders in `PATH`, sorted by name; the
    other attributes are those of `Identities`.
    """

    def _all(self) -> tuple[StoredImages, list[str]]:
        root = pathlib.Path(self.path).expanduser()
        names = folder_names(root)
        files = [image_names(root / name) for name in names]
        if not any(files):
            raise UsageError(
                f"data.source.path {self.path!r} holds no folders with images: they must lie in it"
                " as IDENTITY/IMAGE.jpg."
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordImages(StoredImages):
    """Images in a pack; the keys are the numbers of their records.

    Attributes:
        records: the pack.
    """

    records: ImageRecords

    def name(self, key: int) -> str:
        """The record and its file."""
        return f"record {key} of {self.records.path}"

    def encoded(self, key: int) -> bytes:
        """The image in a record."""
        return self.records.image(int(key))

    def num_bytes(self) -> np.ndarray:
        """Lengths of the records, int64 `[N]`."""
        return self.records.lengths[self.records.rows(self.keys)]


@dataclasses.dataclass(frozen=True)
class FaceRecords(Identities):
    """Faces in a pack of insightface, as `faces_webface_112x112` unpacks: PATH/train.rec and .idx.

    MXNet is not needed. The identities are the labels of the images, in the order of the numbers,
    and `include` and `exclude_ids` name these numbers; the images of each are in the order of the
    records. The other attributes are those of `Identities`.
    """

    def _all(self) -> tuple[StoredImages, list[str]]:
        records = ImageRecords(str(pathlib.Path(self.path).expanduser() / "train.rec"))
        numbers, labels = np.unique(records.labels, return_inverse=True)
        images = RecordImages(
            keys=records.numbers,
            labels=labels.astype(np.int32),
            num_classes=len(numbers),
            size=self.size,
            records=records,
        )
        return images, [str(number) for number in numbers]
