"""Small sets of images in the formats that sources read: files, packs of MXNet, and TFDS.

The images of the TFDS sets are encoded already, so that preparing them needs no TensorFlow.
"""

import io
import struct

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def save(path, level, size=(12, 10), mode="RGB"):
    """Writes an image file of one gray level; `size` is height and width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size[::-1], level).convert(mode).save(path)


def png(image):
    """Encodes an array."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


MAGIC = struct.pack("<I", 0xCED7230A)


def record(label, image, number=0, layout="IfQQ"):
    """Packs a record like MXNet: one label is in the header, several labels follow it."""
    labels = [] if np.isscalar(label) else label
    header = struct.pack(layout, len(labels), 0 if labels else label, number, 0)
    pieces = (header + np.array(labels, "<f4").tobytes() + image).split(MAGIC)
    if len(pieces) == 1:
        return _part(pieces[0], 0)
    kinds = [1, *[2] * (len(pieces) - 2), 3]
    return b"".join(_part(piece, kind) for piece, kind in zip(pieces, kinds, strict=True))


def _part(content, kind):
    head = MAGIC + struct.pack("<I", kind << 29 | len(content))
    return head + content + bytes(-len(content) % 4)


def write_pack(folder, records, order=None):
    """Writes `train.rec` and `train.idx`; `order` permutes the lines of the index."""
    lines, data = [], b""
    for number, content in enumerate(records):
        lines.append(f"{number}\t{len(data)}\n")
        data += content
    folder.mkdir(exist_ok=True)
    (folder / "train.rec").write_bytes(data)
    (folder / "train.idx").write_text("".join(lines[i] for i in order or range(len(lines))))
    return str(folder)


PACK_LABELS = [7, 7, 2, 7, 2, 30]
PACK_IMAGES = [png(np.full((6, 4, 3), 10 * i + 1, np.uint8)) for i in range(len(PACK_LABELS))]


def insightface(layout="IfQQ", several=False):
    """Records of insightface: record 0 gives the end of the images, each identity has a record."""
    images = [
        record([label, 0.5] if several else label, image, i + 1, layout)
        for i, (label, image) in enumerate(zip(PACK_LABELS, PACK_IMAGES, strict=True))
    ]
    end = len(images) + 1
    identities = [record([1, 3], b"", end + i, layout) for i in range(3)]
    return [record([end, end + 3], b"", 0, layout), *images, *identities]


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


class Gray(tfds.core.GeneratorBasedBuilder):
    """Image i has the gray level i and the labels i % 3 and i % 2."""

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
    """Prepares a TFDS set in a folder; returns the folder as a string."""
    builder(data_dir=str(folder), file_format="array_record").download_and_prepare(
        file_format="array_record"
    )
    return str(folder)
