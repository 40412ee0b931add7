"""Tables of the networks without blocks of batch norm: VGG and SphereFace."""

import functools
from collections.abc import Callable

from kd_jax.data.preprocessing import Normalization
from kd_jax.models import vgg
from kd_jax.models.sphereface import SphereFace
from kd_jax.pretrained.pytorch.table import IMAGENET, SAME, Table, flattened

_CONV, _NORM = r"group(\d)_conv(\d)", r"group(\d)_norm(\d)"


def vgg_tables(network: vgg.VGG, size: tuple[int, int] | None) -> tuple[Table, ...]:
    """Returns the tables of a VGG with batch norm.

    In a `Sequential`, a convolution, its batch norm and its activation take three numbers, and in
    torchvision's a max pool takes the number after each group.
    """
    counts = vgg._GROUPS[network.depth]

    def repdistiller(group: int) -> str:
        return f"block{group - 1}"

    def torchvision(offset: int) -> Callable[..., str]:
        return lambda g, i: (
            f"features.{sum(3 * n + 1 for n in counts[: g - 1]) + 3 * (i - 1) + offset}"
        )

    features = {_CONV: torchvision(0), _NORM: torchvision(1)}
    table = functools.partial(Table, first="group1_conv1", size=size or (32, 32))
    if network.hidden:
        return _vgg_tables_with_hidden_layers(network, features, table)
    tables = (
        table(
            name="vgg",
            originals="RepDistiller's vgg.py with batch norm",
            modules={_CONV: _numbered(repdistiller, 0), _NORM: _numbered(repdistiller, 1)},
            classifier="classifier",
        ),
        table(
            name="vgg_torchvision_features",
            originals="torchvision's VGGs with batch norm, without their three linear layers",
            modules=features,
            size=size or (224, 224),
            classifier=None,
            unused={
                r"classifier\.0\.weight": (4096, 25088),
                r"classifier\.3\.weight": (4096, 4096),
                r"classifier\.[036]\.(weight|bias)": None,
            },
            normalization=IMAGENET,
            note=(
                "the network has one linear layer after average pooling, torchvision's has three;"
                " below 64 pixels it has one max pool less than torchvision's"
            ),
        ),
    )
    if network.pools != len(counts):
        return tables
    return (
        *tables,
        table(
            name="vgg_kuangliu",
            originals="kuangliu/pytorch-cifar's vgg.py, for images of 32 pixels",
            modules=features,
            classifier="classifier",
        ),
    )


def _numbered(block: Callable[[int], str], offset: int) -> Callable[..., str]:
    """Returns the name of a layer in the `Sequential` of its group."""
    return lambda g, i: f"{block(g)}.{3 * (i - 1) + offset}"


def _vgg_tables_with_hidden_layers(
    network: vgg.VGG, features: dict[str, Callable[..., str]], table: Callable[..., Table]
) -> tuple[Table, ...]:
    """Returns the tables of a VGG with linear layers before the classifier, 32 pixels."""
    linear: dict[str, Callable[..., str]] = {r"hidden(\d)": lambda i: f"classifier.{3 * (i - 1)}"}
    table = functools.partial(table, classifier=f"classifier.{3 * len(network.hidden)}")

    def okddip(group: int) -> str:
        return f"layer{group - 1}"

    return (
        table(
            name="vgg_chenyaofo",
            originals="chenyaofo/pytorch-cifar-models' vgg.py",
            modules={**features, **linear},
        ),
        table(
            name="vgg_okddip",
            originals="DefangChen/OKDDip's vgg.py",
            modules={
                r"group1_conv(\d)": lambda i: f"conv{i}",
                r"group1_norm(\d)": lambda i: f"bn{i}",
                _CONV: _numbered(okddip, 0),
                _NORM: _numbered(okddip, 1),
                **linear,
            },
        ),
    )


def sphereface_tables(network: SphereFace, size: tuple[int, int] | None) -> tuple[Table, ...]:
    """Returns the tables of a SphereFace network."""
    height, width = size = size or (112, 96)
    for _ in network.channels:  # the stages halve the image
        height, width = -(-height // 2), -(-width // 2)
    clcarwin: dict[str, Callable[..., str]] = {
        r"stage(\d)_conv": lambda s: f"conv{s}_1",
        r"stage(\d)_prelu": lambda s: f"relu{s}_1",
        r"stage(\d)_unit(\d+)/Conv_(\d)": lambda s, u, i: f"conv{s}_{2 * u + i}",
        r"stage(\d)_unit(\d+)/PReLU_(\d)": lambda s, u, i: f"relu{s}_{2 * u + i}",
        "embedding": lambda: "fc5",
    }
    cosface: dict[str, Callable[..., str]] = {
        r"stage(\d)_conv": lambda s: f"layer{s}.0",
        r"stage(\d)_prelu": lambda s: f"layer{s}.1",
        r"stage(\d)_unit(\d+)/Conv_(\d)": lambda s, u, i: f"layer{s}.{u + 1}.conv{i + 1}",
        r"stage(\d)_unit(\d+)/PReLU_(\d)": lambda s, u, i: f"layer{s}.{u + 1}.prelu{i + 1}",
        "embedding": lambda: "fc",
    }
    embedding = flattened(height, width)
    return (
        Table(
            name="sphereface_clcarwin",
            originals="clcarwin/sphereface_pytorch's sphere20a",
            modules=clcarwin,
            first="stage1_conv",
            size=size,
            classifier="fc6",
            classes_axis=1,
            layouts={"embedding": embedding, "classifier": SAME},
            zeros=(r"conv\d_\d+\.bias",),
            normalization=Normalization((0.5,) * 3, (0.50196,) * 3),
            bgr=True,
        ),
        Table(
            name="sphereface_cosface",
            originals="MuggleWang/CosFace_pytorch's sphere20 and sphere64",
            modules=cosface,
            first="stage1_conv",
            size=size,
            classifier=None,
            layouts={"embedding": embedding},
            normalization=Normalization((0.5,) * 3, (0.5,) * 3),
        ),
    )
