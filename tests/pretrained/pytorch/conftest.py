"""Writers of torch's formats, opcode by opcode, for tests without PyTorch."""

import functools
import io
import json
import struct
import types
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from kd_jax import models
from kd_jax.pretrained.pytorch import read_network
from kd_jax.pretrained.pytorch.tables import FAMILIES

KINDS = {
    "bool": "BoolStorage",
    "uint8": "ByteStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
}
MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # LONG1 of 10 bytes


def text(word):
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def row(*items):
    return b"(" + b"".join(items) + b"t"


def name(module, word):
    return f"c{module}\n{word}\n".encode()


def dictionary(items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def done(body):
    return b"\x80\x02" + body + b"."


def storage(kind, key, count, *views):
    return (
        row(text("storage"), name("torch", kind), text(key), text("cpu"), number(count), *views)
        + b"Q"
    )


def tensor(stored, offset, shape, strides):
    numbers = [row(*map(number, values)) for values in (shape, strides)]
    hooks = name("collections", "OrderedDict") + b")R"
    function = name("torch._utils", "_rebuild_tensor_v2")
    return function + row(stored, number(offset), *numbers, b"\x89", hooks) + b"R"


def zipped(body, contents, folder="archive"):
    """The zip archive of torch 1.6 and later."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", done(body))
        archive.writestr(f"{folder}/byteorder", "little")
        for key, content in contents.items():
            archive.writestr(f"{folder}/data/{key}", content)
        archive.writestr(f"{folder}/version", "3\n")
    return file.getvalue()


def legacy(body, contents, counts):
    """The format of torch before 1.6: five pickles, then the storages."""
    machine = dictionary({"protocol_version": number(1001), "little_endian": b"\x88"})
    keys = b"](" + b"".join(map(text, contents)) + b"e"
    pickles = b"".join(map(done, (MAGIC, number(1001), machine, body, keys)))
    return pickles + b"".join(
        struct.pack("<q", counts[key]) + content for key, content in contents.items()
    )


def torch_file(tensors, *, old=False, wrap=None, prefix=""):
    """A file of arrays, each with its own storage."""
    parts, contents, counts = {}, {}, {}
    for key, (word, array) in enumerate(tensors.items()):
        stored = storage(KINDS[array.dtype.name], str(key), array.size, *([b"N"] if old else []))
        strides = [s // array.itemsize for s in np.zeros(array.shape, array.dtype).strides]
        parts[prefix + word] = tensor(stored, 0, array.shape, strides)
        contents[str(key)], counts[str(key)] = array.tobytes(), array.size
    body = dictionary(parts)
    if wrap:
        body = dictionary({"epoch": number(3), wrap: body})
    return legacy(body, contents, counts) if old else zipped(body, contents)


_SAFE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}


def safetensors_file(tensors, **changes):
    """A file of the safetensors format."""
    header, content = {"__metadata__": {"format": "pt"}}, b""
    for word, array in tensors.items():
        offsets = [len(content), len(content) + array.nbytes]
        dtype = _SAFE[array.dtype.name]
        header[word] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        content += array.tobytes()
    header.update(changes)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + content


@pytest.fixture(scope="session")
def write():
    """All functions above."""
    names = "text number row name dictionary done storage tensor zipped legacy torch_file"
    functions = {word: globals()[word] for word in [*names.split(), "safetensors_file"]}
    return types.SimpleNamespace(**functions)


@pytest.fixture(scope="session")
def some():
    """Arrays of several dtypes and shapes."""
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "norm.weight": rng.normal(size=4).astype(np.float16),
        "norm.bias": rng.normal(size=4).astype(ml_dtypes.bfloat16),
        "norm.num_batches_tracked": np.array(7, np.int64),
    }


@functools.cache
def shapes_of(module, shape):
    """Returns the variables of a network by shape and dtype."""
    image = jax.ShapeDtypeStruct(shape, np.float32)
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)


@pytest.fixture(scope="session")
def original():
    """Tables of a network, random variables, and the entries of a file by each table."""

    def original(network, num_classes=5, size=None, channels=3, seed=0, **options):
        module = models.create(network, num_classes=num_classes, **options)
        tables = FAMILIES[type(module)](module, size)
        shapes = shapes_of(module, (1, *tables[0].size, channels))
        rng = np.random.default_rng(seed)
        variables = jax.tree.map(
            lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes
        )
        files = {}
        for table in tables:
            entries, unknown = table.entries(variables)
            assert not unknown
            files[table.name] = {}
            for word, entry in entries.items():
                leaf = variables
                for key in entry.path:
                    leaf = leaf[key]
                files[table.name][word] = entry.layout.to_pytorch(leaf)
                if word.endswith("running_mean"):
                    counter = word.replace("running_mean", "num_batches_tracked")
                    files[table.name][counter] = np.array(3, np.int64)
        return tables, variables, files

    return original


@pytest.fixture
def torch_network(tmp_path):
    """Gives a PyTorch network random weights and statistics, and saves it in either format."""
    import torch

    def torch_network(module, old=False, wrap="state_dict"):
        generator = torch.Generator().manual_seed(0)
        for part in module.modules():
            if hasattr(part, "running_mean"):
                part.weight.data.uniform_(0.5, 1.5, generator=generator)
                part.bias.data.normal_(0, 0.1, generator=generator)
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
            elif getattr(part, "weight", None) is not None:
                part.weight.data.normal_(0, 0.2, generator=generator)
        path = tmp_path / "network.pth"
        content = {"epoch": 3, wrap: module.state_dict()}
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        return module.eval(), path

    return torch_network


@pytest.fixture
def same_outputs():
    """Compares a PyTorch network with ours after the import of its weights."""
    import torch

    def same_outputs(module, path, network, options, size, *, num_classes=None, bgr=False):
        images = np.random.default_rng(1).normal(size=(3, *size, 3)).astype(np.float32)
        theirs = images[..., ::-1] if bgr else images
        with torch.no_grad():
            expected = module(torch.tensor(theirs.transpose(0, 3, 1, 2).copy())).numpy()
        found = read_network(
            path, network, options=options, num_classes=num_classes, size=size, bgr=bgr
        )
        ours = models.create(network, num_classes=found.num_classes, **options)
        apply = jax.jit(functools.partial(ours.apply, train=False))
        outputs = apply(found.variables, jnp.asarray(images))
        result = outputs.embedding if found.table.classifier is None else outputs.logits
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        return found

    return same_outputs
