"""The options of one network of a stage."""

import dataclasses
from typing import Any

import jax

from kd_jax.core.errors import check_choice
from kd_jax.data.preprocessing import Degradation, Normalization
from kd_jax.pretrained.info import RECORDED
from kd_jax.pretrained.weights import CHECKPOINTS, LAST
from kd_jax.training.remat import REMAT


def check_normalization(given: Normalization) -> None:
    """Raises `ValueError` for values of a config that are not on the scale 0 to 1."""
    if not all(0 <= mean <= 1 for mean in given.mean):
        raise ValueError(f"normalization.mean must be on the scale 0 to 1, not {given.mean}")
    if not all(0 < std <= 1 for std in given.std):
        raise ValueError(
            f"normalization.std must be greater than 0, on the scale 0 to 1, not {given.std}"
        )


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """One network of a stage: `config.stages.STAGE.networks.ROLE`.

    Attributes:
        name: architecture. None takes that of `init_from`. `recorded` has no architecture: its
            outputs come from the file `path`.
        path: .npz file of recorded outputs, as `kd-jax embed` writes it, for the name `recorded`.
        center: subtract the mean of the recorded embeddings and divide each by its length.
        augmented: use the recorded outputs of the original images for augmented images too. If
            false, a stage that augments its images refuses recorded outputs.
        options: options of the architecture, as `kd_jax.models.create` takes them.
        resolution: height of the images that the network sees. None is the stored height, or,
            where the architecture comes from `init_from`, the height that it saw there.
        degradation: low-resolution copies in place of some training images. None leaves all sharp.
        init_from: origin of the first weights: the name of an earlier stage, the folder of a
            finished stage, or a file. A file needs `name` and the options of its network. It is one
            of PyTorch that `kd-jax import` knows, or an .npz or .safetensors file whose names are
            the paths of the variables in Flax, such as `params/classifier/kernel`. None starts from
            random weights.
        init_role: role of the network in the stage of `init_from`.
        init_checkpoint: checkpoint of that stage, `last` or `best`.
        init_head: start the classifier from these weights too. If false, it starts from random
            weights, and the number of classes may differ.
        normalization: mean and standard deviation of each channel, on the scale 0 to 1, of the
            images that the network in a file has seen. None takes those of the PyTorch original if
            they are known, else those of `data`.
        bgr: swap the input channels of a PyTorch file, whose network has seen BGR images. None
            swaps them if the original has.
        remat: intermediate results that the backward pass computes again, to save memory: `none`;
            `convolutions`, all except the results of convolutions and products; or `blocks`, all
            except the results of the network's blocks. For trained networks.
        frozen: keep the weights as they are. None follows the method, which also decides which
            values are possible.
    """

    name: str | None = None
    path: str | None = None
    center: bool = False
    augmented: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    resolution: int | None = None
    degradation: Degradation | None = None
    init_from: str | None = None
    init_role: str | None = None
    init_checkpoint: str = LAST
    init_head: bool = True
    normalization: Normalization | None = None
    bgr: bool | None = None
    remat: str = "none"
    frozen: bool | None = None

    def __post_init__(self):
        check_choice(self.init_checkpoint, CHECKPOINTS, "init_checkpoint")
        check_choice(self.remat, REMAT, "remat")
        for option in ("num_classes", "axis_name", "name", "remat"):
            if option in self.options:
                raise ValueError(f"options.{option} is set by the run: leave it out")
        if self.options.get("dtype") == "float64" and not jax.config.jax_enable_x64:
            raise ValueError(
                "options.dtype = 'float64' needs the setting JAX_ENABLE_X64=1 in the environment"
            )
        if self.resolution is not None and self.resolution < 1:
            raise ValueError(f"resolution must be 1 or more, not {self.resolution}")
        if self.normalization is not None:
            check_normalization(self.normalization)
        if (self.name == RECORDED) != (self.path is not None):
            raise ValueError("name = 'recorded' and path are used together, or not at all")
        if self.name != RECORDED and (self.center or self.augmented):
            raise ValueError("center and augmented are used with name = 'recorded' only")
        if self.init_from is None:
            if self.init_role is not None or self.init_checkpoint != LAST or not self.init_head:
                raise ValueError(
                    "init_role, init_checkpoint and init_head are not used without init_from"
                )
            if self.normalization is not None or self.bgr is not None:
                raise ValueError(
                    "normalization and bgr are used with a file in init_from only; for random"
                    " weights set data.normalization"
                )
            if self.name is None:
                raise ValueError("a network without a name needs init_from")
