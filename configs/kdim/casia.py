r"""KDim on CASIA-WebFace (Wang et al., ICCVW 2019): fast recognition of low-resolution faces.

    python -m kd_jax.train --config=configs/kdim/casia.py \
        --config.data.source.path=faces_webface_112x112 --workdir=runs/kdim_casia

The images are a pack of insightface (`train.rec`, `train.idx`; 10,572 identities), of which the
middle 112x96 is used, and stream from the disk. The teacher, SphereFace-64, learns from sharp faces
by A-Softmax; the student, the thin 36-layer network, sees 40 % of them reduced to 8 to 30 pixels
while the frozen teacher sees all sharp. Accuracies on LR-LFW in per cent, by size of the probe:

| student, by                 | 8     | 12    | 16    | 20    | full  |
|-----------------------------|-------|-------|-------|-------|-------|
| KDim (stage `kdim`)         | 94.05 | 95.20 | 96.74 | 97.13 | 99.03 |
| its L2 variant (`l2`)       | 90.36 | 91.75 | 94.66 | 96.83 | 99.00 |
| KD, teacher retrained (`kd`)| 93.95 | 95.08 | 97.00 | 97.10 | 99.17 |

`python -m kd_jax.evaluate` measures them, `experiments/kdim_tables.py` runs all and prints the
paper's tables. The paper's recipe: batch 512, 20 epochs; the optimizer, which it does not give, is
SphereFace's (SGD, 0.1 times 0.1 at 4/7 and 6/7, weight decay 5e-4), and the weights of the terms
and the temperature are ours.

Arguments: `teacher`, `student`, `width` of the student and `teacher_width`, `resolution` (height of
what both see), `loss` of the teacher (a name of `kd_jax.methods.LABEL_LOSSES`), `hard_loss` of the
students, `mmd_weight` of MK-MMD, `baselines=true` (the L2 variant; KD with its retrained teacher;
the student alone on degraded images, and on sharp ones), `share` of the images that are degraded,
`down` and `up`, the filters that degrade, `blur`, `batch`, `epochs`, `learning_rate` of the
students and `teacher_learning_rate` (SphereFace-64 is known to need 0.01 to 0.05 where it starts
from nothing at a small batch), `dtype` and `smoke`.
"""

import functools
from typing import Any

from ml_collections import ConfigDict

from kd_jax.configs import base_config, face_source, frozen, parse_argument, stage
from kd_jax.methods import default_options

SIZES = (8, 12, 16, 20, 30)


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment."""
    source = face_source("faces_webface_112x112", name="face_records", size=(112, 96))
    return kdim(argument, source, "kdim_casia")


def kdim(
    argument: str | None, source: dict[str, Any], experiment: str, *, stream=True, **defaults
) -> ConfigDict:
    """The experiment on other images.

    Args:
        argument: of the config.
        source: of the images.
        experiment: name of it.
        stream: decode the images as they are needed.
        **defaults: of the arguments, where they differ from CASIA-WebFace's.
    """
    known = {
        "teacher": "sphereface64",
        "student": "sphereface36_thin",
        "width": 1.0,
        "teacher_width": 1.0,
        "resolution": 112,
        "loss": "a_softmax",
        "hard_loss": "cross_entropy",
        "mmd_weight": 1.0,
        "baselines": False,
        "share": 0.4,
        "down": "bicubic",
        "up": "bicubic",
        "blur": 0.0,
        "batch": 512,
        "epochs": 20,
        "learning_rate": 0.1,
        "teacher_learning_rate": 0.1,
        "dtype": "bfloat16",
    }
    arg = parse_argument(argument, **known | defaults)
    if arg.smoke:
        arg.epochs, arg.batch, arg.width, arg.teacher_width = 1, 8, 0.0625, 0.0625
        arg.dtype = "float32"
    config = base_config(experiment)
    config.data.source = source
    config.data.batch_size = arg.batch
    config.data.stream = stream
    config.data.augmentation.flip = True
    config.data.normalisation = {"mean": (0.5,), "deviation": (128 / 255,)}  # (x - 127.5) / 128
    if arg.smoke:
        config.data.eval_batch_size = 8
    milestones = [arg.epochs * 4 / 7, arg.epochs * 6 / 7]
    sgd = {
        "name": "sgd",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": {"name": "step", "milestones": milestones, "factor": 0.1},
    }
    degradation = {
        "sizes": SIZES,
        "share": arg.share,
        "keep_aspect": False,
        "blur": arg.blur,
        "down": arg.down,
        "up": arg.up,
    }

    def network(name: str, width: float) -> dict[str, Any]:
        options = {"width": width, "dtype": arg.dtype, "head": "angular"}
        return {"name": name, "resolution": arg.resolution, "options": options}

    def train(rate: float, method: dict[str, Any], **networks: Any) -> dict[str, Any]:
        optimizers = {"default": {**sgd, "learning_rate": rate}}
        return stage(method, optimizers, arg.epochs, **networks)

    teach = functools.partial(train, arg.teacher_learning_rate)
    learn = functools.partial(train, arg.learning_rate)
    teacher = network(arg.teacher, arg.teacher_width)
    student = network(arg.student, arg.width)
    degraded = {**student, "degradation": degradation}
    options, hard = default_options(arg.loss), default_options(arg.hard_loss)
    labels = {"name": "supervised", "loss": arg.loss, "options": options}
    distil = {
        "name": "improved_distillation",
        "temperature": 4.0,
        "hard_weight": 1.0,
        "soft_weight": 1.0,
        "feature_weight": 1.0,
        "loss": arg.hard_loss,
        "options": hard,
    }
    l2 = {**distil, "features": "l2"}
    mk_mmd = {
        **distil,
        "feature_weight": arg.mmd_weight,
        "features": "mk_mmd",
        "multipliers": (1.0, 2.0, 4.0, 8.0, 16.0),
        "variance": "distinct",
        "unbiased": False,
    }
    stages = {
        "teacher": teach(labels, student=teacher),
        "kdim": learn(mk_mmd, student=degraded, teacher=frozen("teacher")),
    }
    if arg.baselines:
        alone = {"name": "supervised", "loss": arg.hard_loss, "options": hard}
        # The margin that the teacher has learnt with is there from the first step.
        whole = {"start": options["least"]} if "least" in options else {}
        relabels = {**labels, "options": {**options, **whole}}
        retrained = {**teacher, "init_from": "teacher", "degradation": degradation}
        retrained_teacher = {**frozen("teacher_lr"), "degradation": degradation}
        stages.update(
            l2=learn(l2, student=degraded, teacher=frozen("teacher")),
            teacher_lr=teach(relabels, student=retrained),
            kd=learn(l2, student=degraded, teacher=retrained_teacher),
            alone_lr=learn(alone, student=degraded),
            alone_hr=learn(alone, student=student),
        )
    config.stages, config.pipeline = stages, tuple(stages)
    return config
