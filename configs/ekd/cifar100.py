r"""EKD on CIFAR-100 (Zhang et al., IEEE TCSVT 2021): a teacher that learns with its student.

    kd-jax train --config=ekd/cifar100:teacher=resnet50,student=resnet18 \
        --workdir=runs/ekd_cifar100

Both networks start from random weights and see every batch together. Each has a guided module after
every block except the last. The paper's accuracies of the student in percent (Tables I and II):

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

Table III uses the networks and the recipe of OKDDip's code. The argument `recipe=okddip` is this
recipe (SGD with Nesterov's momentum, batch 128, 0.1 times 0.1 at epochs 150 and 225 of 300):

| teacher          | student          | student alone | EKD   |
|------------------|------------------|---------------|-------|
| vgg16_okddip     | vgg16_okddip     | 73.81         | 76.86 |
| resnet110_okddip | resnet110_okddip | 75.88         | 79.28 |

The paper's own recipe, the default `recipe=ekd`: SGD, batch 64, 0.1 times 0.1 at epochs 75, 130 and
180, T = 4, seed 5. The paper does not give the number of epochs: 200 is assumed. It gives neither
weight decay nor augmentation; they are RepDistiller's. `recipe=repdistiller` is that of the offline
baselines (batch 64, 0.05 times 0.1 at epochs 150, 180 and 210 of 240; 0.01 for ShuffleNets and
MobileNetV2). All recipes are in `kd_jax/experiment/recipes.py`.

Only full batches are trained on. An epoch of 50,000 images has 781 steps of 64 images, and the last
16 images of its random order are left out. The loaders of PyTorch keep them as step 782. A batch
size that divides 50,000, such as `--config.data.batch_size=50`, leaves no image out.

Arguments: `teacher`, `student`, `resolution` (of both networks, as in Fig. 6), `npz` (files to read
the images from, such as `cifar100_{split}.npz`), `fraction` of the training images of each class
(Fig. 7; there KD's teacher sees all images, so it is the stage of another run), `teacher_modules`
and `student_modules` (-1 is one after every block except the last; Fig. 4, Table V), `fixed=true`
(a teacher that was trained before, as in the rows of Table V without ET), `baselines=true` (also
both networks alone, and KD), `own_augmentation=true` (each network sees its own augmented copy of
the images), `imagenet=true` (the images are prepared as those of ImageNet: random resized crops of
224x224 pixels, bilinear, test images enlarged to 224x224, and the stem of ImageNet's ResNets),
`width` of all networks, `recipe` (`ekd`, `repdistiller`, `okddip` or `rkd`), `epochs` (0 is the
recipe's number; the milestones scale with it), `dtype` of the computation, and `smoke` (as short as
possible). Every weight and reading of the method can be set, as in
`--config.stages.ekd.method.cross_stream=teacher`.
"""

from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from kd_jax.experiment import RECIPES, from_stage, parse_argument, stage
from kd_jax.models import vgg


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    return ekd(argument, {"name": "tfds", "dataset": "cifar100"})


def ekd(
    argument: str | None,
    source: dict[str, Any],
    *,
    size: int = 32,
    flip: bool = True,
    crop: bool = True,
    stream: bool = False,
    **defaults: Any,
) -> ConfigDict:
    """Returns the experiment on other images.

    Args:
        argument: argument of the config.
        source: source of the images.
        size: height of the images.
        flip: augment by mirror images.
        crop: augment by crops, after padding by an eighth of the height.
        stream: decode the images batch by batch.
        **defaults: defaults of the arguments that differ from those for CIFAR-100.
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
        "imagenet": False,
        "width": 1.0,
        "recipe": tuple(RECIPES),
        "epochs": 0,
        "dtype": "bfloat16",
    }
    arg = parse_argument(argument, smoke_values={"width": 0.05, "epochs": 1}, **known | defaults)
    augmentation = {"crop_padding": size // 8 if crop else 0, "flip": flip}
    if arg.imagenet:
        arg.resolution = 224 if arg.resolution == size else arg.resolution
        augmentation = {"resized_crop": 224, "flip": flip}

    dataset = source.get("dataset", source["name"])
    config = ConfigDict()
    config.experiment = f"ekd_{dataset}_{arg.teacher}_{arg.student}"
    config.seed = 5
    config.data = {
        "source": {"name": "npz", "path": arg.npz} if arg.npz else source,
        "batch_size": RECIPES[arg.recipe].batch_size,
        "eval_batch_size": 1024,
        "augmentation": augmentation,
        "train_fraction": arg.fraction,
        "stream": stream and not arg.npz,
    }
    if arg.smoke:
        config.data.update(train_split="train[:128]", test_split="test[:64]", eval_batch_size=64)
    if arg.imagenet:
        config.data.filter = "bilinear"
    config.stages = stages = _stages(arg)
    config.pipeline = tuple(stages)
    return config


def _stages(arg: SimpleNamespace) -> dict[str, Any]:
    """Returns the stages for the arguments of the config."""
    recipe = RECIPES[arg.recipe]
    epochs = arg.epochs or recipe.epochs
    supervised = {"name": "supervised"}
    evolve = {
        "name": "ekd",
        "evolving": not arg.fixed,
        "teacher_modules": arg.teacher_modules if arg.teacher_modules >= 0 else None,
        "student_modules": arg.student_modules if arg.student_modules >= 0 else None,
        # The first group of a VGG is a block like the others.
        "stem": {arg.teacher, arg.student} <= vgg.NETWORKS.keys(),
    }

    def network(name: str) -> dict[str, Any]:
        options = {"width": arg.width, "dtype": arg.dtype}
        if arg.imagenet:
            options["stem"] = "imagenet"
        return {"name": name, "resolution": arg.resolution, "options": options}

    def train(method: dict[str, Any], **values: Any) -> dict[str, Any]:
        return stage(method, recipe.optimizers(values["student"]["name"], epochs), epochs, **values)

    teacher, student = network(arg.teacher), network(arg.student)
    stages = {}
    if arg.fixed or arg.baselines:
        stages["teacher"] = train(supervised, student=teacher)
    stages["ekd"] = train(
        evolve,
        teacher=from_stage("teacher") if arg.fixed else teacher,
        student=student,
        own_augmentation=arg.own_augmentation,
    )
    if arg.baselines:
        stages["student_alone"] = train(supervised, student=student)
        stages["kd"] = train({"name": "kd"}, teacher=from_stage("teacher"), student=student)
    return stages
