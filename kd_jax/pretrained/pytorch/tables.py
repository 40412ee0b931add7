"""The tables of all networks, and the PyTorch networks that are similar but not the same."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from kd_jax.models.mobilenet import MobileNetV2
from kd_jax.models.resnet import ResNet
from kd_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from kd_jax.models.sphereface import SphereFace
from kd_jax.models.vgg import VGG
from kd_jax.models.wide_resnet import WideResNet
from kd_jax.pretrained.pytorch.table import Table
from kd_jax.pretrained.pytorch.tables_mobile import (
    mobilenet_tables,
    shufflenet_v1_tables,
    shufflenet_v2_tables,
)
from kd_jax.pretrained.pytorch.tables_plain import sphereface_tables, vgg_tables
from kd_jax.pretrained.pytorch.tables_residual import resnet_tables, wide_resnet_tables

FAMILIES: dict[type[nn.Module], Callable[[Any, tuple[int, int] | None], tuple[Table, ...]]] = {
    MobileNetV2: mobilenet_tables,
    ResNet: resnet_tables,
    ShuffleNetV1: shufflenet_v1_tables,
    ShuffleNetV2: shufflenet_v2_tables,
    SphereFace: sphereface_tables,
    VGG: vgg_tables,
    WideResNet: wide_resnet_tables,
}
"""The tables of each family, as a function of a network and of the size of its images."""


class Foreign(NamedTuple):
    """A PyTorch network that kd_jax does not have, although a network has its name.

    Attributes:
        name: name of the network.
        entries: entries that only its files have.
        difference: difference from the network of kd_jax.
    """

    name: str
    entries: tuple[str, ...]
    difference: str


FOREIGN = (
    Foreign(
        "torchvision's or chenyaofo's MobileNetV2",
        ("features.1.conv.0.0.weight",),
        "other strides, activations that are cut off at 6, and no expansion in its first block",
    ),
    Foreign(
        "kuangliu's MobileNetV2",
        ("layers.0.shortcut.0.weight",),
        "a stem of stride 1 and shortcuts with convolutions",
    ),
    Foreign(
        "torchvision's or chenyaofo's ShuffleNetV2",
        ("stage2.0.branch1.0.weight",),
        "a stem of 3x3 pixels",
    ),
    Foreign(
        "insightface's ResNet",
        ("layer1.0.prelu.weight",),
        "PReLU activations and batch norm before each convolution",
    ),
)
"""Networks that are left out, and why."""


def foreign(tensors: Mapping[str, np.ndarray]) -> Foreign | None:
    """Returns the network that kd_jax does not have and that a file is from, if it is known."""
    for network in FOREIGN:
        if all(name in tensors for name in network.entries):
            return network
    return None
