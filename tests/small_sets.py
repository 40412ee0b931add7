"""Small prepared TFDS sets; their images are encoded already, so that no TensorFlow is needed."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


class Cifar100(tfds.core.GeneratorBasedBuilder):
    """Noise in the format of TFDS' CIFAR-100."""

    VERSION = tfds.core.Version("3.0.2")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(num_classes=100),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples(200), "test": self._generate_examples(100)}

    def _generate_examples(self, number):
        rng = np.random.default_rng(number)
        for i in range(number):
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            yield i, {"image": png(image), "label": i % 100}


class Grey(tfds.core.GeneratorBasedBuilder):
    """Image i has the grey level i and the labels i % 3 and i % 2."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(6, 6, 3)),
            "label": tfds.features.ClassLabel(num_classes=3),
            "parity": tfds.features.ClassLabel(num_classes=2),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples(9), "test": self._generate_examples(3)}

    def _generate_examples(self, number):
        for i in range(number):
            image = np.full((6, 6, 3), i, np.uint8)
            yield i, {"image": png(image), "label": i % 3, "parity": i % 2}


def prepare(builder, folder):
    """Prepares a set in a folder; returns the folder as a string."""
    builder(data_dir=str(folder), file_format="array_record").download_and_prepare(
        file_format="array_record"
    )
    return str(folder)
