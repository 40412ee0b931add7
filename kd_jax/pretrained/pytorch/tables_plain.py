"""Tables of the networks without blocks of batch norm: VGG and SphereFace."""

from collections.abc import Callable

from kd_jax.models import vgg
from kd_jax.models.sphereface import SphereFace
from kd_jax.pretrained.pytorch.table import SAME, Table, flattened


def vgg_tables(network: vgg.VGG, size: tuple[int, int] | None) -> tuple[Table, ...]:
    """Returns the tables of a VGG with batch norm.

    In a `Sequential`, a convolution, its batch norm and its activation take three numbers, and in
    torchvision's a max pool takes the number after each group.
    """
    counts = vgg._GROUPS[network.depth]

    def repdistiller(offset: int) -> Callable[..., str]:
        return lambda g, i: f"block{g - 1}.{3 * (i - 1) + offset}"

    def torchvision(offset: int) -> Callable[..., str]:
        return lambda g, i: (
            f"features.{sum(3 * n + 1 for n in counts[: g - 1]) + 3 * (i - 1) + offset}"
        )

    conv, norm = r"group(\d)_conv(\d)", r"group(\d)_norm(\d)"
    return (
        Table(
            name="vgg",
            originals="RepDistiller's vgg.py with batch norm",
            modules={conv: repdistiller(0), norm: repdistiller(1)},
            first="group1_conv1",
            size=size or (32, 32),
            classifier="classifier",
        ),
        Table(
            name="vgg_torchvision_features",
            originals="torchvision's VGGs with batch norm, without their three linear layers",
            modules={conv: torchvision(0), norm: torchvision(1)},
            first="group1_conv1",
            size=size or (224, 224),
            classifier=None,
            unused={
                r"classifier\.0\.weight": (4096, 25088),
                r"classifier\.3\.weight": (4096, 4096),
                r"classifier\.[036]\.(weight|bias)": None,
            },
            note=(
                "the network has one linear layer after average pooling, torchvision's has three;"
                " below 64 pixels it has one max pool less than torchvision's"
            ),
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
            note=(
                "the files of this table see BGR images: add --bgr --mean=0.5,0.5,0.5"
                " --std=0.50196,0.50196,0.50196"
            ),
        ),
        Table(
            name="sphereface_cosface",
            originals="MuggleWang/CosFace_pytorch's sphere20 and sphere64",
            modules=cosface,
            first="stage1_conv",
            size=size,
            classifier=None,
            layouts={"embedding": embedding},
            note="the files of this table see RGB images: --mean=0.5,0.5,0.5 --std=0.5,0.5,0.5",
        ),
    )
