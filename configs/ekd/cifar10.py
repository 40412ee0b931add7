r"""EKD on CIFAR-10 (Zhang et al., IEEE TCSVT 2021, Fig. 5): which terms of the loss help.

    kd-jax train --config=ekd/cifar10:teacher=vgg19,student=vgg11 --workdir=runs/ekd_cifar10

The recipe and the arguments are those of `ekd/cifar100`. The paper shows Fig. 5 without numbers. A
weight of 0 leaves a term out, as in `--config.stages.ekd.method.soft_weight=0`.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = {"name": "tfds", "dataset": "cifar10"}
    return sibling(__file__, "cifar100.py").ekd(argument, source, teacher="vgg19", student="vgg11")
