r"""EKD on CIFAR-10 (Ge et al., IEEE TCSVT 2021, Fig. 5): which terms of the loss help.

    python -m kd_jax.train --config=configs/ekd/cifar10.py:teacher=vgg19,student=vgg11 \
        --workdir=runs/ekd_cifar10

The recipe and the arguments are those of `configs/ekd/cifar100.py`. The paper shows Fig. 5 without
numbers; a term is left out by its weight, as in `--config.stages.ekd.method.soft_weight=0`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from kd_jax.configs import sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    source = {"name": "tfds", "dataset": "cifar10", "data_dir": placeholder(str)}
    return sibling(__file__, "cifar100.py").ekd(argument, source, teacher="vgg19", student="vgg11")
