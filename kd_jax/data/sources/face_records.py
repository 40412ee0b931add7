"""Faces to train on, in the packs of insightface."""

import dataclasses

import numpy as np

from kd_jax.data.base import SOURCES
from kd_jax.data.identities import Identities
from kd_jax.data.images import StoredImages
from kd_jax.data.local_files import expanded
from kd_jax.data.recordio import ImageRecords


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordImages(StoredImages):
    """Images in a pack; the keys are the numbers of their records.

    Attributes:
        records: the pack.
    """

    records: ImageRecords

    def name(self, key: int) -> str:
        """Returns the record and its file."""
        return f"record {key} of {self.records.path}"

    def encoded(self, key: int) -> bytes:
        """Returns the image in a record."""
        return self.records.image(int(key))

    def num_bytes(self) -> np.ndarray:
        """Returns the lengths of the records, int64 `[N]`."""
        return self.records.lengths[self.records.rows(self.keys)]


@SOURCES.register("face_records")
@dataclasses.dataclass(frozen=True)
class FaceRecords(Identities):
    """Faces in a pack of insightface, such as `faces_webface_112x112`: PATH/train.rec and .idx.

    MXNet is not needed. The identities are the labels of the images, in ascending order. `include`
    and `exclude_ids` name these numbers. The images of an identity are in the order of the records.
    The other attributes are those of `Identities`.
    """

    def _all(self) -> tuple[StoredImages, list[str]]:
        records = ImageRecords(str(expanded(self.path) / "train.rec"))
        numbers, labels = np.unique(records.labels, return_inverse=True)
        images = RecordImages(
            keys=records.numbers,
            labels=labels.astype(np.int32),
            num_classes=len(numbers),
            size=self.size,
            records=records,
        )
        return images, [str(number) for number in numbers]
