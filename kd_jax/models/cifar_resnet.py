"""Residual networks of three stages for 32x32 images, He et al., CVPR 2016, section 4.2.

They follow RepDistiller's `models/resnet.py`: where a shortcut changes the shape, it is a 1x1
convolution with batch norm, the paper's shortcut B. The option `shortcut="A"` is the shortcut
without parameters of the paper's networks for CIFAR-10: every second pixel, with zeros for the new
channels. `resnet8x4` and `resnet32x4` have four times the channels after a stem of twice the
channels.

`resnet110_okddip` is the ResNet-110 of OKDDip (Chen et al., AAAI 2020) and of EKD's Table III, as
in `models/model_cifar/resnet.py` of DefangChen/OKDDip: 12 bottlenecks per stage. `resnet110` has 18
basic blocks per stage.
"""

import functools

from kd_jax.models.resnet import BasicBlock, Bottleneck, ResNet


def _cifar(
    depth: int, stem_channels: int = 16, channels: tuple[int, ...] = (16, 32, 64)
) -> functools.partial[ResNet]:
    """Returns the factory of a network of `depth` = 6n + 2 layers, n basic blocks per stage."""
    return functools.partial(
        ResNet,
        blocks=((depth - 2) // 6,) * 3,
        channels=channels,
        block=BasicBlock,
        stem="cifar",
        stem_channels=stem_channels,
    )


NETWORKS = {
    "resnet8": _cifar(8),
    "resnet14": _cifar(14),
    "resnet20": _cifar(20),
    "resnet32": _cifar(32),
    "resnet44": _cifar(44),
    "resnet56": _cifar(56),
    "resnet110": _cifar(110),
    "resnet110_okddip": functools.partial(
        ResNet,
        blocks=(12, 12, 12),
        channels=(16, 32, 64),
        block=Bottleneck,
        stem="cifar",
        stem_channels=16,
    ),
    "resnet8x4": _cifar(8, 32, (64, 128, 256)),
    "resnet32x4": _cifar(32, 32, (64, 128, 256)),
}
