"""Tables of MobileNetV2 and of both ShuffleNets."""

from collections.abc import Callable

from kd_jax.models.mobilenet import MobileNetV2
from kd_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from kd_jax.pretrained.pytorch.table import Table


def mobilenet_tables(network: MobileNetV2, size: tuple[int, int] | None) -> tuple[Table, ...]:
    """Returns the table of MobileNetV2: its parts are numbered in a `Sequential`."""
    modules: dict[str, Callable[..., str]] = {
        "stem_conv": lambda: "conv1.0",
        "stem_norm": lambda: "conv1.1",
        r"group(\d+)_block(\d+)/Conv_(\d)": lambda g, b, i: f"blocks.{g - 1}.{b - 1}.conv.{3 * i}",
        r"group(\d+)_block(\d+)/BatchNorm_(\d)": (
            lambda g, b, i: f"blocks.{g - 1}.{b - 1}.conv.{3 * i + 1}"
        ),
        "last_conv": lambda: "conv2.0",
        "last_norm": lambda: "conv2.1",
    }
    return (
        Table(
            name="mobilenet_v2",
            originals="RepDistiller's mobilenetv2.py",
            modules=modules,
            first="stem_conv",
            size=size or (32, 32),
            classifier="classifier.0",
        ),
    )


def shufflenet_v1_tables(network: ShuffleNetV1, size: tuple[int, int] | None) -> tuple[Table, ...]:
    """Returns the table of ShuffleNet V1."""
    modules: dict[str, Callable[..., str]] = {
        "stem_conv": lambda: "conv1",
        "stem_norm": lambda: "bn1",
        r"stage(\d+)_block(\d+)/Conv_(\d)": lambda s, b, i: f"layer{s}.{b - 1}.conv{i + 1}",
        r"stage(\d+)_block(\d+)/BatchNorm_(\d)": lambda s, b, i: f"layer{s}.{b - 1}.bn{i + 1}",
    }
    return (
        Table(
            name="shufflenet_v1",
            originals="RepDistiller's ShuffleNetv1.py",
            modules=modules,
            first="stem_conv",
            size=size or (32, 32),
            classifier="linear",
        ),
    )


def shufflenet_v2_tables(network: ShuffleNetV2, size: tuple[int, int] | None) -> tuple[Table, ...]:
    """Returns the table of ShuffleNet V2: a first block counts its left convolutions first."""

    def number(block: int, index: int) -> int:
        return index + (3 if block == 1 else 1)

    modules: dict[str, Callable[..., str]] = {
        "stem_conv": lambda: "conv1",
        "stem_norm": lambda: "bn1",
        r"stage(\d+)_block(\d+)/left_conv(\d)": lambda s, b, i: f"layer{s}.{b - 1}.conv{i}",
        r"stage(\d+)_block(\d+)/left_norm(\d)": lambda s, b, i: f"layer{s}.{b - 1}.bn{i}",
        r"stage(\d+)_block(\d+)/Conv_(\d)": (
            lambda s, b, i: f"layer{s}.{b - 1}.conv{number(b, i)}"
        ),
        r"stage(\d+)_block(\d+)/BatchNorm_(\d)": (
            lambda s, b, i: f"layer{s}.{b - 1}.bn{number(b, i)}"
        ),
        "last_conv": lambda: "conv2",
        "last_norm": lambda: "bn2",
    }
    return (
        Table(
            name="shufflenet_v2",
            originals="RepDistiller's ShuffleNetv2.py",
            modules=modules,
            first="stem_conv",
            size=size or (32, 32),
            classifier="linear",
        ),
    )
