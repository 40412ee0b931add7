r"""EKD on CIFAR-100 (Ge et al., IEEE TCSVT 2021): a teacher that learns beside its student.

    python -m kd_jax.train --config=configs/ekd/cifar100.py:teacher=resnet50,student=resnet18 \
        --workdir=runs/ekd_cifar100

Both networks start from random weights and see every batch together; each has a guided module
after every block but the last. The paper's accuracies of the student in per cent (Tables I to III):

| teacher  | student       | student alone | EKD   |
|----------|---------------|---------------|-------|
| vgg19    | vgg11         | 70.76         | 74.12 |
| vgg11    | vgg11         | 70.76         | 74.52 |
| resnet50 | resnet18      | 76.61         | 82.05 |
| resnet18 | resnet18      | 76.61         | 80.74 |
| resnet101| resnet50      | 78.71         | 81.91 |
| resnet50 | resnet50      | 78.71         | 82.48 |
| wrn_50_2 | wrn_50_2      | 80.24         | 82.53 |
| resnet18 | vgg8          | 69.21         | 73.82 |
| vgg11    | shufflenet_v1 | 66.18         | 73.18 |
| resnet18 | shufflenet_v2 | 70.48         | 75.26 |
| wrn_50_2 | shufflenet_v1 | 66.18         | 73.61 |
| wrn_50_2 | vgg8          | 69.21         | 74.05 |
| vgg16    | vgg16         | 73.81         | 76.86 |
| resnet110| resnet110     | 75.88         | 79.28 |

The paper's recipe: SGD, batch 64, 0.1 times 0.1 at epochs 75, 130 and 180 of 200, T = 4, seed 5;
weight decay and augmentation, which it does not give, are RepDistiller's.

Arguments: `teacher`, `student`, `resolution` (of both networks, as in Fig. 6), `npz` (files that
the images are read from, such as `cifar100_{split}.npz`), `fraction` of the training images of each
class (Fig. 7, where KD's teacher sees all of them: there it is the stage of a run of its own),
`teacher_modules` and `student_modules` (-1 is one after every block but the last; Fig. 4, Table V),
`fixed=true` (a teacher trained beforehand, as in the rows of Table V without ET), `baselines=true`
(both networks alone, and KD), `own_augmentation=true` (each network sees its own augmented copy of
the images), `width` of all networks, `epochs` (the milestones move along), `dtype` of the
computation, and `smoke`. Every weight and reading of the method can be set:
`--config.stages.ekd.method.cross_stream=teacher`.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from kd_jax.configs import base_config, frozen, parse_argument, stage, step_sgd
from kd_jax.models import vgg


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    source = {"name": "tfds", "dataset": "cifar100", "data_dir": placeholder(str)}
    return ekd(argument, source)


def ekd(
    argument: str | None,
    source: dict[str, Any],
    *,
    size: int = 32,
    flip: bool = True,
    crop: bool = True,
    stream: bool = False,
    **defaults,
) -> ConfigDict:
    """The experiment on other images.

    Args:
        argument: of the config.
        source: of the images.
        size: their height.
        flip: mirroring leaves them what they are.
        crop: so does moving them by an eighth of their height.
        stream: decode the images as they are needed.
        **defaults: of the arguments, where they differ from CIFAR-100's.
    """
    known = {
        "teacher": "resnet50",
        "student": "resnet18",
        "resolution": size,
        "npz": "",
        "fraction": 1.0,
        "teacher_modules": -1,
        "student_modules": -1,
        "fixed": False,
        "baselines": False,
        "own_augmentation": False,
        "width": 1.0,
        "epochs": 200,
        "dtype": "bfloat16",
    }
    arg = parse_argument(argument, **known | defaults)
    if arg.smoke:
        arg.width, arg.epochs = 0.05, 1

    name = source.get("dataset", source["name"])
    config = base_config(f"ekd_{name}_{arg.teacher}_{arg.student}")
    config.seed = 5
    config.data.source = {"name": "npz", "path": arg.npz} if arg.npz else source
    config.data.stream = stream and not arg.npz
    config.data.train_fraction = arg.fraction
    config.data.batch_size = 64
    config.data.eval_batch_size = 1024
    config.data.augmentation = {"crop_padding": size // 8 if crop else 0, "flip": flip}
    if arg.smoke:
        config.data.train_split, config.data.test_split = "train[:128]", "test[:64]"
        config.data.eval_batch_size = 64
    optimizers = step_sgd(arg.epochs)
    evolutionary = {
        "name": "evolutionary",
        "temperature": 4.0,
        "evolving": not arg.fixed,
        "teacher_modules": arg.teacher_modules if arg.teacher_modules >= 0 else None,
        "student_modules": arg.student_modules if arg.student_modules >= 0 else None,
        # the first group of a VGG is a block as the others are
        "stem": {arg.teacher, arg.student} <= vgg.NETWORKS.keys(),
        "hard_weight": 1.0,
        "soft_weight": 1.0,
        "feature_weight": 1.0,
        "cross_weight": 1.0,
        "cross_feature_weight": 1.0,
        "feature_reduction": "mean",
        "targets": "deepest",
        "cross_stream": "student",
    }
    kd = {"name": "soft_targets", "temperature": 4.0, "hard_weight": 0.1, "soft_weight": 0.9}

    def network(name):
        options = {"width": arg.width, "dtype": arg.dtype}
        return {"name": name, "resolution": arg.resolution, "options": options}

    def train(method, **values):
        return stage(method, optimizers, arg.epochs, **values)

    teacher, student = network(arg.teacher), network(arg.student)
    stages = {}
    if arg.fixed or arg.baselines:
        stages["teacher"] = train({"name": "supervised"}, student=teacher)
    beside = frozen("teacher") if arg.fixed else teacher
    stages["ekd"] = train(
        evolutionary, teacher=beside, student=student, own_augmentation=arg.own_augmentation
    )
    if arg.baselines:
        stages["student_alone"] = train({"name": "supervised"}, student=student)
        stages["kd"] = train(kd, teacher=frozen("teacher"), student=student)
    config.stages = stages
    config.pipeline = tuple(stages)
    return config
