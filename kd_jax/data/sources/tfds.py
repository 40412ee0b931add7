"""Image classification sets of TensorFlow Datasets (TFDS), without TensorFlow."""

import dataclasses
import shlex
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kd_jax.core.errors import UsageError, reason
from kd_jax.data.base import SOURCES, Source, slices
from kd_jax.data.fitting import Fit
from kd_jax.data.images import ImageSet


@SOURCES.register("tfds")
@dataclasses.dataclass(frozen=True)
class Tfds(Source):
    """Any image classification set of TFDS that has been prepared as array_record.

    Attributes:
        dataset: name in TFDS, with config and version if needed: `"cifar100:3.0.2"`.
        data_dir: folder of the prepared sets; None is the default of TFDS (`TFDS_DATA_DIR` or
            `~/tensorflow_datasets`).
        image_key: name of the feature that holds the image.
        label_key: name of the feature that holds the class; CIFAR-100 also has `"coarse_label"`.
        fit: size and color that all images are brought to. None keeps the stored color and needs
            images of one size.
    """

    dataset: str
    data_dir: str | None = None
    image_key: str = "image"
    label_key: str = "label"
    fit: Fit | None = None

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder

        options = {} if self.data_dir is None else {"data_dir": self.data_dir}
        try:
            return read_only_builder.builder_from_files(self.dataset, **options)
        except tfds.core.DatasetNotFoundError as error:
            folder = self.data_dir or tfds.core.constants.DATA_DIR
            raise UsageError(
                f"data.source.dataset {self.dataset!r} is not prepared in {folder}: run"
                f" `pip install tensorflow && {self._prepare_command(folder)}`, or set"
                f" data.source.data_dir to the folder that holds it."
            ) from error

    def _prepare_command(self, folder: object) -> str:
        words = ["tfds", "build", self.dataset, "--file_format=array_record"]
        return shlex.join([*words, f"--data_dir={folder}"])

    def load(self, split: str) -> ImageSet:
        """Reads and decodes one split on all cores.

        Raises:
            UsageError: if the set is not prepared or damaged, or its features or the split are not
                those of an image classification set.
        """
        try:
            return self._load(split)
        except (UsageError, ImportError):
            raise
        except Exception as error:  # damage raises errors of many kinds, from JSON to Riegeli
            raise UsageError(
                f"data.source.dataset {self.dataset!r} cannot be read ({reason(error)}): correct"
                f" its name or data.source.data_dir, or delete it and run"
                f" `{self._prepare_command(self.data_dir or 'FOLDER')}`."
            ) from error

    def _load(self, split: str) -> ImageSet:
        import tensorflow_datasets as tfds

        builder = self._builder()
        features = builder.info.features
        for key in (self.image_key, self.label_key):
            if key not in features:
                raise UsageError(
                    f"{self.dataset!r} has no feature {key!r}: set data.source.image_key and"
                    f" data.source.label_key to two of {sorted(features)}."
                )
        image, label = features[self.image_key], features[self.label_key]
        if not isinstance(label, tfds.features.ClassLabel) or image.np_dtype != np.uint8:
            raise UsageError(
                f"{self.image_key!r} and {self.label_key!r} of {self.dataset!r} must be an 8-bit"
                " image and a ClassLabel: set data.source.image_key and data.source.label_key to"
                " such features."
            )
        name, part = slices(split, {k: v.num_examples for k, v in builder.info.splits.items()})
        try:
            source = builder.as_data_source(split=name)
        except NotImplementedError as error:
            raise UsageError(
                f"{self.dataset!r} is in {builder.data_dir} in a format without random access:"
                f" run `{self._prepare_command('NEW_FOLDER')}` and set data.source.data_dir to it."
            ) from error
        indices = range(len(source))[part]
        if not indices:
            raise UsageError(f"split {split!r} is empty: choose a part that holds images.")
        return self._decode(source, indices, label.num_classes)

    def _decode(self, source: Any, indices: range, num_classes: int) -> ImageSet:
        def decoded(block: range) -> list[tuple[np.ndarray, int]]:
            examples = source.__getitems__(list(block))
            return [
                (self._fitted(example[self.image_key], index), example[self.label_key])
                for index, example in zip(block, examples, strict=True)
            ]

        blocks = [indices[i : i + 512] for i in range(0, len(indices), 512)]
        with ThreadPoolExecutor() as pool:  # PNG and JPEG decoding releases the interpreter lock
            examples = [example for block in pool.map(decoded, blocks) for example in block]
        shapes = {image.shape for image, _ in examples}
        if len(shapes) > 1:
            raise UsageError(
                f"{self.dataset!r} holds images of {len(shapes)} different sizes: set"
                " data.source.fit.size to bring them to one."
            )
        images = np.stack([image for image, _ in examples])
        labels = np.array([label for _, label in examples], np.int32)
        return ImageSet(images, labels, num_classes, names=np.asarray(indices))

    def _fitted(self, image: np.ndarray, index: int) -> np.ndarray:
        return image if self.fit is None else self.fit(image, f"image {index} of {self.dataset!r}")
