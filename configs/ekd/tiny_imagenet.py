r"""EKD on Tiny-ImageNet (Zhang et al., IEEE TCSVT 2021, Table IV).

    kd-jax train --config=ekd/tiny_imagenet:teacher=resnet34,student=resnet18,imagenet=true \
        --config.data.source.path=tiny-imagenet-200 --workdir=runs/ekd_tiny_imagenet

The folder is that of the original archive, `tiny-imagenet-200.zip`. Its validation images are the
test images, as is usual. The paper's accuracies: ResNet-18 alone 65.30 %, KD 68.18 %, EKD 69.46 %.

With `imagenet=true`, as in the paper, the networks see random resized crops of 224x224 pixels, and
test images are enlarged to 224x224. Their stem is then that of ImageNet's ResNets, which the paper
does not say. Without it, they see the 64x64 pixels, cropped after a padding of 8 pixels.

The argument `npz` reads arrays instead, `images` uint8 `[N, 64, 64, 3]` and `labels`, one file per
split; `{split}` in the path is replaced by `train` and `test`:

    --config=ekd/tiny_imagenet:npz=tiny_imagenet_{split}.npz

The recipe and the other arguments are those of `ekd/cifar100`.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = {"name": "tiny_imagenet"}
    return sibling(__file__, "cifar100.py").ekd(argument, source, size=64, teacher="resnet34")
