r"""KDim (Wang et al., ICCVW 2019) on LFW's development set: training sees no person of the test.

    kd-jax train --config=kdim/lfw --config.data.source.path=lfw \
        --config.data.source.include=lfw/peopleDevTrain.txt --workdir=runs/kdim_lfw
    kd-jax evaluate --network=runs/kdim_lfw/kdim --size=112x96 \
        --pairs=lfw/pairsDevTest.txt --images=lfw

The folder `lfw` holds the aligned faces as `Name/Name_0001.jpg`, 112x112. The centers of 112x96 are
used; all of them fit on a device. Only persons with five images or more are trained on: 4,138
images of 298 persons, where the paper has 490,623 of 10,572. The accuracies cannot be compared with
its tables, but the methods can be compared with each other. The measured accuracies are in
`experiments/results/faces_cpu.md`. The arguments are those of `kdim/casia`.

With a recorded teacher, a strong face network of any kind teaches, and no labels are needed:

    kd-jax train --config=kdim/lfw:teacher=recorded,outputs=lfw_dlib_embeddings.npz,faces=lfw \
        --seeds=0,1,2 --workdir=runs/kdim_lfw_recorded

The file holds `names` (`Name/Name_0001.jpg`) and `embeddings` of the teacher, see
`docs/teachers.md`. All 9,525 faces of the 4,038 persons in `peopleDevTrain.txt` are trained on. The
pairs in `pairsDevTest.txt` are verified during training, with the second image of each pair reduced
to 8, 12, 16 and 20 pixels like the training images, and at full resolution. Both lists are in the
folder. The student is trained by the L2 distance of the normalized embeddings (eq. 6) or by MK-MMD,
without labels. The embeddings of the teacher are centered: the direction that all faces share hides
what differs between them.

Further arguments for `teacher=recorded`: `faces` (the folder), `outputs`, `features` (`l2` or
`mk_mmd`), and `baselines=true` (also the student alone, from the labels of the same faces).
"""

from ml_collections import ConfigDict

from kd_jax.data.preprocessing import Degradation
from kd_jax.experiment import face_source, parse_argument, sibling, stage

RECORDED = {
    "student": "sphereface20",
    "width": 0.25,
    "resolution": 56,
    "probability": 0.4,
    "blur": Degradation.blur,
    "down": "bicubic",
    "up": "bicubic",
    "batch": 64,
    "epochs": 20,
    "learning_rate": 0.05,
    "dtype": "float32",
    "baselines": False,
}
"""Arguments of `kdim/casia` that a recorded teacher leaves open, with their defaults here."""


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    if "teacher=recorded" in (argument or "").split(","):
        return _recorded(argument)
    source = face_source("lfw", size=(112, 96), min_images=5)
    rates = {"learning_rate": 0.02, "teacher_learning_rate": 0.02}
    return sibling(__file__, "casia.py").kdim(
        argument, source, "kdim_lfw", stream=False, batch=64, **rates
    )


def _recorded(argument: str | None) -> ConfigDict:
    """Returns the experiment with a recorded teacher."""
    own = {
        "teacher": ("recorded",),
        "outputs": "lfw_dlib_embeddings.npz",
        "faces": "lfw",
        "features": ("l2", "mk_mmd"),
    }
    casia = sibling(__file__, "casia.py")
    arg = parse_argument(argument, smoke_values=casia.SMOKE, **own, **RECORDED)
    others = {
        key: value for key, value in vars(arg).items() if key not in own and value is not False
    }
    include = f"{arg.faces}/peopleDevTrain.txt"
    source = face_source(arg.faces, size=(112, 96), include=include, min_images=1, test_images=0)
    config = casia.kdim(
        ",".join(f"{key}={value}" for key, value in others.items()),
        source,
        "kdim_lfw_recorded",
        stream=False,
    )
    rate = {"name": "sgd", "learning_rate": arg.learning_rate, "momentum": 0.9}
    optimizers = {"default": {**rate, "weight_decay": 5e-4, "schedule": {"name": "cosine"}}}
    verification = {
        "name": "verification",
        "pairs": f"{arg.faces}/pairsDevTest.txt",
        "images": arg.faces,
        "size": (112, 96),
        "probe_sizes": (8, 12, 16, 20),
        "blur": arg.blur,
        "down": arg.down,
        "up": arg.up,
    }
    epochs = config.stages.kdim.epochs
    student = config.stages.kdim.networks.student.to_dict()
    teacher = {"name": "recorded", "path": arg.outputs, "center": True, "augmented": True}
    distill = {"name": "kdim", "features": arg.features, "hard_weight": 0.0, "soft_weight": 0.0}
    common = {"evaluate_every": max(1, epochs // 4), "evaluators": {"pairs": verification}}
    stages = {
        "kdim": stage(distill, optimizers, epochs, student=student, teacher=teacher, **common)
    }
    if arg.baselines:
        alone = config.stages.alone_lr.method.to_dict()
        stages["alone_lr"] = stage(alone, optimizers, epochs, student=student, **common)
    config.data.test_split = None
    config.stages, config.pipeline = stages, tuple(stages)
    return config
