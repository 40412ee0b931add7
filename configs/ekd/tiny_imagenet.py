r"""EKD on Tiny-ImageNet (Ge et al., IEEE TCSVT 2021, Table IV).

    python -m kd_jax.train --config=configs/ekd/tiny_imagenet.py:teacher=resnet34,student=resnet18 \
        --config.data.source.path=tiny-imagenet-200 --workdir=runs/ekd_tiny_imagenet

The folder is that of the original archive, `tiny-imagenet-200.zip`; its validation images are the
test images, as everywhere. The paper: ResNet-18 alone 65.30 %, KD 68.18 %, EKD 69.46 %.

The argument `npz` reads arrays instead, `images` uint8 `[N, 64, 64, 3]` and `labels`, one file a
split; `{split}` in the path stands for `train` and `test`:

    --config=configs/ekd/tiny_imagenet.py:npz=tiny_imagenet_{split}.npz

The recipe and the arguments are those of `configs/ekd/cifar100.py`, at 64x64.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from kd_jax.configs import sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    source = {"name": "tiny_imagenet", "path": placeholder(str)}
    return sibling(__file__, "cifar100.py").ekd(argument, source, size=64, teacher="resnet34")
