r"""KD as function matching: patient and consistent (Beyer et al., CVPR 2022).

    kd-jax train --config=baselines/patient:teacher=runs/resnet20,epochs=160,mixup=1 \
        --seeds=0,1,2 --baseline=independent --workdir=runs/patient

`A good teacher is patient and consistent <https://arxiv.org/abs/2106.05237>`_ takes distillation as
the matching of two functions: both networks see the same random crops, there is no loss on the
labels, mixup gives images far from the training images, and training takes very long. Two stages
train the same student from the same weights by KD without labels:

| stage | |
|---|---|
| `independent` | teacher and student see different random crops |
| `consistent` | both see the same crops, at their own resolutions |

With `mixup=1`, whose weights are uniform in 0 to 1 as in the paper, `consistent` is function
matching. The paper also has crops of random size. Images, teacher, optimizer and the other crops
are those of `horkd/cifar10`, whose docstring has the command that imports the teacher: compare the
stages with its `alone` and `kd`, and runs of different `epochs` with each other.

Arguments: `mixup` (parameter of its Beta distribution; 0 is none), `temperature`, and those of
`horkd/cifar10`: `teacher`, `student`, `resolution`, `npz`, `validation`, `epochs`,
`learning_rate`, `dtype`, `smoke`.
"""

from ml_collections import ConfigDict

from kd_jax.experiment import parse_argument, sibling


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    horkd = sibling(__file__, "../horkd/cifar10.py")
    arg = parse_argument(
        argument, smoke_values={"epochs": 1}, mixup=0.0, temperature=4.0, **horkd.ARGUMENTS
    )
    words = [f"{key}={getattr(arg, key)}" for key in horkd.ARGUMENTS if getattr(arg, key) != ""]
    config = horkd.get_config(",".join([*words, *["smoke"] * arg.smoke]))
    config.experiment = f"patient_cifar10_{arg.student}_{arg.resolution}_mixup{arg.mixup:g}"
    config.data.augmentation.mixup = arg.mixup
    method = {"hard_weight": 0.0, "soft_weight": 1.0, "temperature": arg.temperature}
    stages = {name: config.stages.kd.to_dict() for name in ("independent", "consistent")}
    for values in stages.values():
        values["method"] |= method
    stages["independent"]["own_augmentation"] = True
    config.stages = stages
    config.pipeline = tuple(config.stages)
    return config
