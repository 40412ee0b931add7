"""The three-stage residual networks for 32x32 images, He et al., CVPR 2016, section 4.2.

As RepDistiller's `models/resnet.py` has them: where a shortcut changes shape it is a 1x1
convolution with batch norm (the paper pads with zeros). `resnet8x4` and `resnet32x4` have four
times the channels after a stem of twice the channels.
"""

import functools

from kd_jax.models.resnet import BasicBlock, ResNet


def _cifar(depth: int, stem_channels: int = 16, channels: tuple[int, ...] = (16, 32, 64)):
    """A network of `depth` = 6n + 2 layers: n basic blocks a stage."""
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
    "resnet8x4": _cifar(8, 32, (64, 128, 256)),
    "resnet32x4": _cifar(32, 32, (64, 128, 256)),
}
