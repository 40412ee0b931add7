"""Tables of the residual networks: ResNets, Wide-ResNets, and VGGFace2's ResNet-50."""

import functools
from collections.abc import Callable

from kd_jax.data.preprocessing import Normalization
from kd_jax.models.resnet import Bottleneck, ResNet
from kd_jax.models.wide_resnet import WideResNet
from kd_jax.pretrained.pytorch.table import CONVOLUTION_1X1, IMAGENET, Table

_COMMON: dict[str, Callable[..., str]] = {
    "stem_conv": lambda: "conv1",
    "stem_norm": lambda: "bn1",
    r"stage(\d+)_block(\d+)/Conv_(\d+)": lambda s, b, i: f"layer{s}.{b - 1}.conv{i + 1}",
    r"stage(\d+)_block(\d+)/BatchNorm_(\d+)": lambda s, b, i: f"layer{s}.{b - 1}.bn{i + 1}",
}


def _shortcuts(word: str) -> dict[str, Callable[..., str]]:
    """Returns the names of the shortcuts: `layer2.0.WORD.0` and `layer2.0.WORD.1`."""
    return {
        r"stage(\d+)_block(\d+)/shortcut_conv": lambda s, b: f"layer{s}.{b - 1}.{word}.0",
        r"stage(\d+)_block(\d+)/shortcut_norm": lambda s, b: f"layer{s}.{b - 1}.{word}.1",
    }


_PARTS = ("1x1_reduce", "3x3", "1x1_increase")
_CAFFE: dict[str, Callable[..., str]] = {
    "stem_conv": lambda: "conv1_7x7_s2",
    "stem_norm": lambda: "conv1_7x7_s2_bn",
    r"stage(\d+)_block(\d+)/Conv_(\d+)": lambda s, b, i: f"conv{s + 1}_{b}_{_PARTS[i]}",
    r"stage(\d+)_block(\d+)/BatchNorm_(\d+)": lambda s, b, i: f"conv{s + 1}_{b}_{_PARTS[i]}_bn",
    r"stage(\d+)_block(\d+)/shortcut_conv": lambda s, b: f"conv{s + 1}_{b}_1x1_proj",
    r"stage(\d+)_block(\d+)/shortcut_norm": lambda s, b: f"conv{s + 1}_{b}_1x1_proj_bn",
}
_VGGFACE2 = Normalization((0.51408, 0.40738, 0.35881), (0.0039216,) * 3)
"""Images 0 to 255 minus their mean, not divided by a standard deviation."""

_SAME_NAMES = (
    "VGGFace2's ResNet-50 has the same names and shapes as torchvision's; its network is"
    " resnet50_vggface2"
)


def resnet_tables(network: ResNet, size: tuple[int, int] | None) -> tuple[Table, ...]:
    """Returns the tables of a ResNet.

    torchvision and VGGFace2 use the same names and shapes for different ResNet-50s. The network
    decides which table is used.
    """
    large = network.stem != "cifar"
    usual = (224, 224) if large else (32, 32)
    table = functools.partial(Table, first="stem_conv", size=size or usual)
    if getattr(network.block, "keywords", {}).get("stride_first"):
        return (
            table(
                name="vggface2",
                originals="cydonia999/VGGFace2-pytorch",
                modules={**_COMMON, **_shortcuts("downsample")},
                classifier="fc",
                normalization=_VGGFACE2,
                bgr=True,
            ),
            table(
                name="vggface2_caffe",
                originals="VGGFace2's own models for PyTorch, such as resnet50_scratch_dims_2048",
                modules=_CAFFE,
                classifier="classifier",
                layouts={"classifier": CONVOLUTION_1X1},
                normalization=_VGGFACE2,
                note=(
                    "the order of the colors is that of the code that comes with the file: set bgr"
                    " if it is BGR"
                ),
            ),
        )
    downsample = (
        "torchvision's ResNets and Wide-ResNet-50-2"
        if large
        else "RepDistiller's resnet.py, chenyaofo/pytorch-cifar-models"
    )
    return (
        table(
            name="resnet_downsample_fc",
            originals=downsample,
            modules={**_COMMON, **_shortcuts("downsample")},
            classifier="fc",
            normalization=IMAGENET if network.stem == "imagenet" else None,
            note=_SAME_NAMES if large and network.block is Bottleneck else "",
        ),
        table(
            name="resnet_shortcut_linear",
            originals=(
                "RepDistiller's resnetv2.py, kuangliu/pytorch-cifar,"
                " akamaster/pytorch_resnet_cifar10"
            ),
            modules={**_COMMON, **_shortcuts("shortcut")},
            classifier="linear",
        ),
    )


def wide_resnet_tables(network: WideResNet, size: tuple[int, int] | None) -> tuple[Table, ...]:
    """Returns the table of a Wide-ResNet.

    In PyTorch a block begins with the batch norm that ends the block before it in Flax.
    """
    last = (network.depth - 4) // 6

    def block(s: int, b: int) -> str:
        return f"block{s}.layer.{b - 1}"

    def norm2(s: int, b: int) -> str:
        if b < last:
            return f"{block(s, b + 1)}.bn1"
        return f"{block(s + 1, 1)}.bn1" if s < 3 else "bn1"

    modules: dict[str, Callable[..., str]] = {
        "stem_conv": lambda: "conv1",
        "stem_norm": lambda: "block1.layer.0.bn1",
        r"stage(\d+)_block(\d+)_conv(\d)": lambda s, b, i: f"{block(s, b)}.conv{i}",
        r"stage(\d+)_block(\d+)_norm1": lambda s, b: f"{block(s, b)}.bn2",
        r"stage(\d+)_block(\d+)_norm2": norm2,
        r"stage(\d+)_block(\d+)_shortcut": lambda s, b: f"{block(s, b)}.convShortcut",
    }
    return (
        Table(
            name="wrn",
            originals="RepDistiller's wrn.py",
            modules=modules,
            first="stem_conv",
            size=size or (32, 32),
            classifier="fc",
        ),
    )
