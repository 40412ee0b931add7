"""Where labelled images come from: digits, any prepared TFDS set, arrays, folders of files."""

import dataclasses
import pathlib
import shlex
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kd_jax.data.faces import FaceFolder, FaceRecords
from kd_jax.data.folders import Folder, TinyImageNet
from kd_jax.data.images import ImageSet, Source, StoredImages, slices
from kd_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Digits(Source):
    """Scikit-learn's 1,797 real handwritten digits: 8x8 grey images of ten classes.

    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998. They lie in the wheel of
    scikit-learn, so nothing is downloaded. The splits are ours, stratified and shuffled once and
    for all: `train` holds 1,437 images, `test` 360.
    """

    def load(self, split: str) -> ImageSet:
        """Reads `train` or `test`, or a part of one."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        parts = train_test_split(
            images, labels.astype(np.int32), test_size=360, stratify=labels, random_state=0
        )
        splits = {"train": (parts[0], parts[2]), "test": (parts[1], parts[3])}
        name, part = slices(split, {name: len(y) for name, (_, y) in splits.items()})
        images, labels = splits[name]
        return ImageSet(images[part], labels[part], num_classes=10)


@dataclasses.dataclass(frozen=True)
class Tfds(Source):
    """Any image classification set of TFDS that is prepared as array_record, without TensorFlow.

    Attributes:
        dataset: name as TFDS knows it, with config and version if wanted: `"cifar100:3.0.2"`.
        data_dir: folder of the prepared sets; None is TFDS' own default (`TFDS_DATA_DIR` or
            `~/tensorflow_datasets`).
        image_key: feature that holds the image.
        label_key: feature that holds the class; CIFAR-100 also has `"coarse_label"`.
    """

    dataset: str
    data_dir: str | None = None
    image_key: str = "image"
    label_key: str = "label"

    def _builder(self):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder

        place = {} if self.data_dir is None else {"data_dir": self.data_dir}
        try:
            return read_only_builder.builder_from_files(self.dataset, **place)
        except tfds.core.DatasetNotFoundError as error:
            folder = self.data_dir or tfds.core.constants.DATA_DIR
            raise UsageError(
                f"data.source.dataset {self.dataset!r} is not prepared in {folder}: run"
                f" `pip install tensorflow && {self._prepare_command(folder)}`, or set"
                f" data.source.data_dir to the folder that holds it."
            ) from error

    def _prepare_command(self, folder) -> str:
        words = ["tfds", "build", self.dataset, "--file_format=array_record"]
        return shlex.join([*words, f"--data_dir={folder}"])

    def load(self, split: str) -> ImageSet:
        """Reads and decodes one split on all cores."""
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
                f"{self.dataset!r} cannot be classified by {self.image_key!r} and"
                f" {self.label_key!r}: an 8-bit image and a ClassLabel are needed."
            )
        name, part = slices(split, {k: v.num_examples for k, v in builder.info.splits.items()})
        try:
            source = builder.as_data_source(split=name)
        except NotImplementedError as error:
            raise UsageError(
                f"{self.dataset!r} lies in {builder.data_dir} in a format without random access:"
                f" run `{self._prepare_command('NEW_FOLDER')}` and set data.source.data_dir to it."
            ) from error
        indices = range(len(source))[part]
        if not indices:
            raise UsageError(f"split {split!r} is empty: choose a part that holds images.")
        return self._decode(source, indices, features[self.label_key].num_classes)

    def _decode(self, source, indices, num_classes) -> ImageSet:
        blocks = [indices[i : i + 512] for i in range(0, len(indices), 512)]
        with ThreadPoolExecutor() as pool:  # PNG and JPEG decoding releases the interpreter lock
            examples = [
                example
                for block in pool.map(lambda b: source.__getitems__(list(b)), blocks)
                for example in block
            ]
        shapes = {example[self.image_key].shape for example in examples}
        if len(shapes) > 1:
            raise UsageError(
                f"{self.dataset!r} holds images of {len(shapes)} different sizes: bring them to"
                " one size first and give them as data.source.name='npz'."
            )
        images = np.stack([example[self.image_key] for example in examples])
        labels = np.array([example[self.label_key] for example in examples], np.int32)
        return ImageSet(images, labels, num_classes)


@dataclasses.dataclass(frozen=True)
class Npz(Source):
    """A user's own arrays: `images` uint8 `[N, H, W]` or `[N, H, W, C]`, `labels` integers `[N]`.

    Attributes:
        path: `.npz` file. `{split}` in it is replaced by the split's name
            (`"flowers_{split}.npz"`); without it the file's one split is called `train`, to be
            cut by `data.train_split="train[:80%]"` and `data.test_split="train[80%:]"`.
        num_classes: number of classes; None takes the greatest label plus one.
    """

    path: str
    num_classes: int | None = None

    def load(self, split: str) -> ImageSet:
        """Reads one split and checks every property that training relies on."""
        base = split.split("[")[0] if "{split}" in self.path else "train"
        path = pathlib.Path(self.path.replace("{split}", base))
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                images, labels = arrays["images"], arrays["labels"]
        except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"data.source.path {str(path)!r} cannot be read ({error}): it must be an .npz file"
                " with the arrays `images` and `labels`."
            ) from error
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
            raise UsageError(
                f"images in {path} are {images.dtype} {images.shape}: they must be uint8"
                " [N, H, W] or [N, H, W, C] and not empty."
            )
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise UsageError(
                f"labels in {path} are {labels.dtype} {labels.shape}: they must be integers of"
                f" shape ({len(images)},), one for each image."
            )
        num_classes = self.num_classes or int(labels.max()) + 1
        if labels.min() < 0 or labels.max() >= num_classes:
            raise UsageError(
                f"labels in {path} go from {labels.min()} to {labels.max()}: they must lie between"
                f" 0 and data.source.num_classes - 1 = {num_classes - 1}."
            )
        _, part = slices(split, {base: len(labels)})
        images = images[..., None] if images.ndim == 3 else images
        return ImageSet(images[part], labels[part].astype(np.int32), num_classes)


SOURCES: dict[str, type[Source]] = {
    "digits": Digits,
    "tfds": Tfds,
    "npz": Npz,
    "folder": Folder,
    "tiny_imagenet": TinyImageNet,
    "face_folder": FaceFolder,
    "face_records": FaceRecords,
}


def load_splits(
    source: Source, train_split: str, test_split: str, stream: bool = False
) -> tuple[ImageSet | StoredImages, ImageSet]:
    """Reads the training and the test images and checks that they belong together.

    Args:
        source: of both.
        train_split: in TFDS' notation.
        test_split: the same.
        stream: leave the training images where they are, to be decoded as they are needed.
    """
    train = source.open(train_split) if stream else source.load(train_split)
    test = source.load(test_split)
    for split, images in ((train_split, train), (test_split, test)):
        if not len(images):
            raise UsageError(f"split {split!r} is empty: choose a part that holds images.")
    if train.image_shape != test.image_shape:
        raise UsageError(
            f"training images are {train.image_shape} but test images {test.image_shape}: bring"
            " both to one size."
        )
    if test.num_classes > train.num_classes:
        raise UsageError(
            f"test labels go up to {test.num_classes - 1} but training labels only to"
            f" {train.num_classes - 1}: set data.source.num_classes."
        )
    return train, dataclasses.replace(test, num_classes=train.num_classes)
