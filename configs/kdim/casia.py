r"""KDim on CASIA-WebFace (Wang et al., ICCVW 2019): fast recognition of low-resolution faces.

    kd-jax train --config=kdim/casia --config.data.source.path=faces_webface_112x112 \
        --workdir=runs/kdim_casia

The images are a pack of insightface (`train.rec`, `train.idx`; 10,572 identities), read from the
disk batch by batch; the centers of 112x96 are used. The teacher, SphereFace-64 with the units of
the paper's Table 1 (`sphereface64_paper`), learns from sharp faces by A-Softmax. The student, the
thin 36-layer network, sees 40 % of them through a Gaussian filter and reduced to 8 to 30 pixels,
while the frozen teacher sees all of them sharp. The paper's accuracies on LR-LFW (Tables 4 and 6)
in percent, by size of the probe:

| student, by                 | 8     | 12    | 16    | 20    | full  |
|-----------------------------|-------|-------|-------|-------|-------|
| KDim (stage `kdim`)         | 94.05 | 95.20 | 96.74 | 97.13 | 99.03 |
| its L2 variant (`l2`)       | 90.36 | 91.75 | 94.66 | 96.83 | 99.00 |
| KD, teacher retrained (`kd`)| 93.95 | 95.08 | 97.00 | 97.10 | 99.17 |
| teacher (`teacher`)         | -     | -     | -     | -     | 99.42 |

`kd-jax evaluate --protocol=plain` measures them: the paper uses no mirror images. The probes are
degraded like the training images. `experiments/kdim_tables.py` runs all stages and prints the
paper's tables. The paper's recipe is batch 512 and 20 epochs. It does not give the optimizer, which
here is SphereFace's (SGD, 0.1 times 0.1 at 4/7 and 6/7 of the epochs, weight decay 5e-4). The
weights of the terms and the temperature are ours.

Arguments: `teacher`, `student`, `width` of the student and `teacher_width`, `resolution` (height of
the images that both see), `loss` of the teacher (a name of `kd_jax.methods.LABEL_LOSSES`),
`hard_loss` of the students, `mmd_weight` of MK-MMD, `baselines=true` (also the L2 variant, KD with
its retrained teacher, and the student alone on degraded and on sharp images), `soft_labels` of KDim
(`cross_entropy`, `mk_mmd` or `l2`; the paper: MK-MMD for the soft label "slightly hurts the
accuracy"), `probability` that an image is degraded, `fixed=true` (the same images are degraded in
every epoch), `blur` (the Gaussian filter, see `Degradation`), `down` and `up` (the filters that
resample; `down=none` only blurs), `batch`, `epochs`, `learning_rate` of the students and
`teacher_learning_rate` (SphereFace-64 with random first weights and a small batch is known to need
0.01 to 0.05), `dtype` of the computation, and `smoke` (as short as possible).
"""

import functools
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from kd_jax.data.preprocessing import Degradation
from kd_jax.experiment import face_source, from_stage, parse_argument, stage
from kd_jax.methods import default_options

SMOKE = {"epochs": 1, "batch": 8, "width": 0.0625, "teacher_width": 0.0625, "dtype": "float32"}
"""Arguments of the shortest run."""


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = face_source("faces_webface_112x112", name="face_records", size=(112, 96))
    return kdim(argument, source, "kdim_casia")


def kdim(
    argument: str | None,
    source: dict[str, Any],
    experiment: str,
    *,
    stream: bool = True,
    **defaults: Any,
) -> ConfigDict:
    """Returns the experiment on other images.

    Args:
        argument: argument of the config.
        source: source of the images.
        experiment: name of the experiment.
        stream: decode the images batch by batch.
        **defaults: defaults of the arguments that differ from those for CASIA-WebFace.
    """
    known = {
        "teacher": "sphereface64_paper",
        "student": "sphereface36_thin",
        "width": 1.0,
        "teacher_width": 1.0,
        "resolution": 112,
        "loss": "a_softmax",
        "hard_loss": "cross_entropy",
        "mmd_weight": 1.0,
        "soft_labels": ("cross_entropy", "mk_mmd", "l2"),
        "baselines": False,
        "probability": Degradation.probability,
        "fixed": False,
        "blur": Degradation.blur,
        "down": Degradation.down,
        "up": Degradation.up,
        "batch": 512,
        "epochs": 20,
        "learning_rate": 0.1,
        "teacher_learning_rate": 0.1,
        "dtype": "bfloat16",
    }
    arg = parse_argument(argument, smoke_values=SMOKE, **known | defaults)
    config = ConfigDict()
    config.experiment = experiment
    config.data = {
        "source": source,
        "batch_size": arg.batch,
        "augmentation": {"flip": True},
        "stream": stream,
        "normalization": {"mean": (0.5,), "std": (128 / 255,)},  # (x - 127.5) / 128
    }
    if arg.smoke:
        config.data.eval_batch_size = 8
    config.stages = stages = _stages(arg)
    config.pipeline = tuple(stages)
    return config


def _stages(arg: SimpleNamespace) -> dict[str, Any]:
    """Returns the stages for the arguments of the config."""
    milestones = [arg.epochs * 4 / 7, arg.epochs * 6 / 7]
    sgd = {
        "name": "sgd",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": {"name": "step", "milestones": milestones, "factor": 0.1},
    }
    degradation = {
        "probability": arg.probability,
        "blur": arg.blur,
        "down": arg.down,
        "up": arg.up,
        "fixed_seed": 0 if arg.fixed else None,
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
    labels = {"name": "supervised", "loss": arg.loss}
    mk_mmd = {
        "name": "kdim",
        "soft_labels": arg.soft_labels,
        "feature_weight": arg.mmd_weight,
        "loss": arg.hard_loss,
    }
    stages = {
        "teacher": teach(labels, student=teacher),
        "kdim": learn(mk_mmd, student=degraded, teacher=from_stage("teacher")),
    }
    if not arg.baselines:
        return stages
    l2 = {"name": "kdim", "features": "l2", "loss": arg.hard_loss}
    alone = {"name": "supervised", "loss": arg.hard_loss}
    # The margin with which the teacher ended is complete from the first step.
    options = default_options(arg.loss)
    whole = {"options": {"start": options["least"]}} if "least" in options else {}
    retrained = {**teacher, "init_from": "teacher", "degradation": degradation}
    retrained_teacher = from_stage("teacher_lr", degradation=degradation)
    return stages | {
        "l2": learn(l2, student=degraded, teacher=from_stage("teacher")),
        "teacher_lr": teach({**labels, **whole}, student=retrained),
        "kd": learn(l2, student=degraded, teacher=retrained_teacher),
        "alone_lr": learn(alone, student=degraded),
        "alone_hr": learn(alone, student=student),
    }
