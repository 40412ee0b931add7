r"""HORKD with few images: a public teacher, 5,000 images of CIFAR-10, low-resolution students.

    kd-jax import --weights=cifar10_resnet20-12fca82f.th --network=resnet20 \
        --options.shortcut=A --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225 --out=runs/resnet20
    kd-jax train --config=horkd/cifar10:teacher=runs/resnet20,resolution=16 \
        --seeds=0,1,2 --baseline=alone --workdir=runs/horkd_cifar10_16

The paper (Ge et al., AAAI 2020) trains on all of CIFAR-100. Here, the images are few and the epochs
many: the regime in which a teacher has most to teach, and in which two CPU cores are enough. The
teacher, from `akamaster/pytorch_resnet_cifar10`, sees 32x32. Every student sees `resolution`. The
stages are the student alone, KD, RKD, and HORKD from the teacher; and, through an assistant of the
student's architecture at 32x32, HORKD as in the paper's Fig. 2.

A fraction of the images, `validation`, is not trained on. The weights of the methods were chosen on
these images, never on the test images. The measured accuracies are in
`experiments/results/horkd.md`.

Arguments: `teacher` (folder of a network, by default `runs/resnet20`), `student`, `resolution`,
`npz` (files to read the images from, such as `cifar10_{split}.npz`; the default is TFDS),
`validation`, `epochs`, `learning_rate`, `dtype` of the computation, `assistant=true` (also the two
stages with the assistant), and `smoke` (as short as possible).
"""

from typing import Any

from ml_collections import ConfigDict

from kd_jax.experiment import from_stage, parse_argument, stage

ARGUMENTS = {
    "teacher": "runs/resnet20",
    "student": "resnet20",
    "resolution": 16,
    "npz": "",
    "validation": 0.5,
    "epochs": 40,
    "learning_rate": 0.1,
    "dtype": "float32",
}
"""Arguments and their defaults, without those that choose stages."""


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    arg = parse_argument(argument, smoke_values={"epochs": 1}, assistant=False, **ARGUMENTS)
    source = {"name": "npz", "path": arg.npz} if arg.npz else {"name": "tfds", "dataset": "cifar10"}
    config = ConfigDict()
    config.experiment = f"horkd_cifar10_{arg.student}_{arg.resolution}"
    config.data = {
        "source": source,
        "train_split": "train[:10000]",
        "validation_fraction": arg.validation,
        "batch_size": 64,
        "eval_batch_size": 500,
        "augmentation": {"crop_padding": 4, "flip": True},
    }
    if arg.smoke:
        config.data.update(train_split="train[:256]", test_split="test[:64]", eval_batch_size=64)
    sgd = {
        "name": "sgd",
        "learning_rate": arg.learning_rate,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": {"name": "cosine"},
    }
    every = max(1, arg.epochs // 4)

    def network(resolution: int) -> dict[str, Any]:
        return {"name": arg.student, "resolution": resolution, "options": {"dtype": arg.dtype}}

    def train(method: dict[str, Any], **networks: Any) -> dict[str, Any]:
        return stage(method, {"default": sgd}, arg.epochs, evaluate_every=every, **networks)

    teacher, student = from_stage(arg.teacher), network(arg.resolution)
    horkd = {"name": "horkd", "feature_weight": 0.0}
    stages = {
        "alone": train({"name": "supervised"}, student=student),
        "kd": train({"name": "kd"}, teacher=teacher, student=student),
        "rkd": train({"name": "rkd", "variant": "paper"}, teacher=teacher, student=student),
        "horkd": train(horkd, teacher=teacher, student=student),
    }
    if arg.assistant:
        stages["assistant"] = train(horkd, teacher=teacher, student=network(32))
        stages["horkd_assisted"] = train(horkd, teacher=from_stage("assistant"), student=student)
    config.stages, config.pipeline = stages, tuple(stages)
    return config
