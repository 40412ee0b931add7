r"""HORKD for retrieval (Ge et al., AAAI 2020, section 4.3): CUB-200-2011 at low resolution.

    kd-jax train --config=horkd/cub200:resolution=128,path=CUB_200_2011 --workdir=runs/cub200_128

The first 100 classes are trained on, and the images of the others search for each other: Recall@K
is the fraction of the images that have an image of their class among the K most similar ones. The
teacher is a ResNet-50 that sees `size` pixels. The assistant has the student's architecture and
sees the same images. The student is a ResNet-18 that sees `resolution`, and learns from the
assistant. With `resolution=256`, the assistant is the result. Recall@1 in the paper's Table 4, in
percent:

| set      | 256   | 224   | 160   | 128   | 96    | ResNet-18 alone | teacher |
|----------|-------|-------|-------|-------|-------|-----------------|---------|
| Cars196  | 82.23 | 80.03 | 79.04 | 77.85 | 73.41 | 46.70           | 75.91   |
| CUB      | 57.82 | 57.14 | 57.19 | 55.37 | 53.53 | 51.70           | 58.96   |
| SOP      | 68.13 | 69.90 | 68.87 | 67.66 | 66.42 | 61.70           | 72.62   |

The text of the paper calls the results on CUB better than the best of the other methods; in the
table, MKD (58.0) and MKD+AT (58.1) are above 57.82. `experiments/horkd_table4.py` prints all rows.

The paper gives no recipe for this section. This config has that of lenscloth/RKD, whose numbers the
table continues: Adam, batches of 4 images per class (RKD: 5), embeddings of 512 numbers for
the teacher and 128 for the students, the triplet loss with distance-weighted mining. Teacher and
students of RKD start from ImageNet weights. `weights` and `student_weights` name their folders, as
`kd-jax import` makes them of torchvision's files; without them all networks start from random
weights, with a learning rate of `learning_rate`, and reach much less. Images are resized to `size`
* 8/7 whatever their aspect ratio, as RKD's to 256x256, trained on random windows of `size`, and
evaluated on the one in the center.

The configs `horkd/cars196` and `horkd/sop` are this one on other images.

Arguments: `path` of the images, `train_classes` (0: the official layout; else `path` has one folder
per class, of which the first ones by name are trained on), `size` (height of the images that
teacher and assistant see), `resolution`, `teacher`, `student`, `width` (of all networks),
`weights`, `student_weights`, `embedding`, `teacher_embedding`, `loss` (label loss of all stages),
`batch_size`, `teacher_epochs`, `epochs`, `learning_rate` (0: RKD's 1e-5 for the teacher and 1e-4
for students with weights, 1e-3 without), `dtype`, `baselines=true` (also the student alone and
without the assistant), `others=true` (also RKD, DarkRank, MKD and PKT from the teacher), `smoke`.
"""

from typing import Any

from ml_collections import ConfigDict

from kd_jax.experiment import from_stage, parse_argument, stage

RKD: dict[str, dict[str, Any]] = {
    "teacher": {"rate": 1e-5, "factor": 0.5, "drops": (25 / 40, 30 / 40, 35 / 40)},
    "student": {"rate": 1e-4, "factor": 0.1},
}
"""Recipe of lenscloth/RKD, which calls 100 steps an epoch."""
OTHERS: dict[str, dict[str, Any]] = {
    "rkd": {"hard_weight": 0.0, "distance_weight": 1.0, "angle_weight": 2.0},
    "darkrank": {},
    "mkd": {"loss": "triplet", "options": {"mining": "batch_hard", "margin": 0.0}},
    "pkt": {},
}
"""Further methods. RKD, whose student is not normalized, and MKD have the options of their authors;
the weight of MKD is for batches of 32 images."""


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    source = {"name": "cub200", "path": "CUB_200_2011"}
    return retrieval(argument, source, teacher_epochs=87.0, epochs=175.0)


def retrieval(
    argument: str | None,
    source: dict[str, Any],
    *,
    ks: tuple[int, ...] = (1, 2, 4, 8),
    stream: bool = False,
    drops: tuple[float, float] = (1 / 2, 3 / 4),
    mkd_weight: float = 0.3,
    **defaults: Any,
) -> ConfigDict:
    """Returns the experiment on other images.

    Args:
        argument: argument of the config.
        source: source of the images.
        ks: values of K of Recall@K.
        stream: decode the images batch by batch.
        drops: fractions of the training of a student after which the learning rate drops.
        mkd_weight: weight of MKD's relative teacher.
        **defaults: defaults of the arguments that differ from those for CUB.
    """
    known = {
        "path": source["path"],
        "train_classes": 0,
        "size": 256,
        "resolution": 128,
        "teacher": "resnet50",
        "student": "resnet18",
        "width": 1.0,
        "weights": "",
        "student_weights": "",
        "teacher_embedding": 512,
        "embedding": 128,
        "loss": "triplet",
        "batch_size": 128,
        "teacher_epochs": 87.0,
        "epochs": 175.0,
        "learning_rate": 0.0,
        "dtype": "bfloat16",
        "baselines": False,
        "others": False,
    }
    smoke = {"width": 0.05, "epochs": 1.0, "teacher_epochs": 1.0, "batch_size": 16}
    arg = parse_argument(argument, smoke_values=smoke, **known | defaults)
    stored = arg.size * 8 // 7
    images = {**source, "path": arg.path}
    if arg.train_classes:
        images |= {"name": "class_folders", "train_classes": arg.train_classes}
    config = ConfigDict()
    config.experiment = f"horkd_{source['name']}_{arg.student}_{arg.resolution}"
    config.data = {
        "source": images | {"fit": {"size": (stored, stored), "mode": "stretch"}},
        "batch_size": arg.batch_size,
        "eval_batch_size": 256,
        "images_per_class": 4,
        "augmentation": {"crop": arg.size, "flip": True},
        "stream": stream,
    }
    label = {"loss": arg.loss}
    horkd = {"name": "horkd", "feature_weight": 0.0, **label}
    started = {"teacher": arg.weights, "student": arg.student_weights}

    def network(role: str, resolution: int) -> dict[str, Any]:
        options = {
            "width": arg.width,
            "dtype": arg.dtype,
            "stem": "imagenet",
            "embedding_size": arg.teacher_embedding if role == "teacher" else arg.embedding,
            "normalize_embedding": True,
        }
        start = {"init_from": started[role], "init_head": False} if started[role] else {}
        return {"name": getattr(arg, role), "resolution": resolution, "options": options, **start}

    def train(method: dict[str, Any], role: str, resolution: int, **teacher: Any) -> dict[str, Any]:
        recipe = RKD[role]
        epochs = arg.teacher_epochs if role == "teacher" else arg.epochs
        milestones = [fraction * epochs for fraction in recipe.get("drops", drops)]
        adam = {
            "name": "adam",
            "learning_rate": arg.learning_rate or (recipe["rate"] if started[role] else 1e-3),
            "weight_decay": 1e-5,
            "schedule": {"name": "step", "milestones": milestones, "factor": recipe["factor"]},
        }
        return stage(
            method,
            {"default": adam},
            epochs,
            evaluate_every=max(1.0, epochs / 5),
            evaluators={"retrieval": {"name": "retrieval", "ks": ks}},
            student=network(role, resolution),
            **teacher,
        )

    supervised, teacher = {"name": "supervised", **label}, from_stage("teacher")
    stages = {
        "teacher": train(supervised, "teacher", arg.size),
        "assistant": train(horkd, "student", arg.size, teacher=teacher),
    }
    low = arg.resolution != arg.size
    if low:
        assistant = from_stage("assistant")
        stages["student"] = train(horkd, "student", arg.resolution, teacher=assistant)
    if arg.baselines:
        stages["student_alone"] = train(supervised, "student", arg.resolution)
    if arg.baselines and low:
        stages["student_direct"] = train(horkd, "student", arg.resolution, teacher=teacher)
    for name, options in OTHERS.items() if arg.others else ():
        method = {"name": name, **label, **options}
        if name == "mkd":
            method["relative_weight"] = mkd_weight
        one = train(method, "student", arg.resolution, teacher=teacher)
        one["networks"]["student"]["options"]["normalize_embedding"] = name != "rkd"
        stages[f"student_{name}"] = one
    config.stages, config.pipeline = stages, tuple(stages)
    return config
