"""The runs behind EKD's tables and figures, and the numbers of the paper."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        teacher: network of the teacher.
        student: network of the student.
        stage: stage of the config: `ekd`, `kd` or `student_alone`; of HORKD `student` or
            `assistant`.
        arguments: arguments of the config.
        method: options of the method that differ from the config's; `name` is another method.
        config: name of the config.
        first: earlier stage that the student, its adapters or its base come from: a key of
            `_FIRST`. Empty if there is none.
    """

    teacher: str
    student: str
    stage: str = "ekd"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: str = "ekd/cifar100"
    first: str = ""

    @property
    def name(self) -> str:
        """Returns the name of the folder; equal runs of two tables have the same name."""
        alone = self.stage == "student_alone"
        networks = [self.student] if alone else [self.teacher, self.student]
        options = {**self.arguments, **self.method}
        parts = [f"{key}_{value}" for key, value in sorted(options.items())]
        parts += [self.teacher, f"after_{self.first}"] if alone and self.first else []
        config = self.config.removeprefix("ekd/").replace("/", "_")
        return "-".join([config, self.stage.split("_")[-1], *networks, *parts])

    @property
    def before(self) -> "Cell | None":
        """Returns the cell whose network is the frozen teacher of this one."""
        if self.stage == "student":
            return dataclasses.replace(self, stage="assistant")
        if self.stage not in ("kd", "assistant") and not self.arguments.get("fixed"):
            return None
        keys, config = ["recipe", "imagenet"], self.config
        if self.stage == "assistant":  # HORKD's teacher sees 32x32
            config = "ekd/cifar100"
        else:
            keys.append("resolution")
        kept = {key: self.arguments[key] for key in keys if key in self.arguments}
        return Cell(self.teacher, self.teacher, "student_alone", kept, config=config)

    @property
    def first_cell(self) -> "Cell | None":
        """Returns the cell of the first stage."""
        if not self.first:
            return None
        method, arguments, student = _FIRST[self.first], dict(self.arguments), self.student
        if method:
            arguments["epochs"] = 30  # RepDistiller's --init_epochs
        if self.first == "paraphraser":
            student = "resnet8"  # it learns nothing
        return Cell(self.teacher, student, "kd", arguments, method, self.config)


_FIRST: dict[str, dict[str, str]] = {
    "paraphraser": {"name": "paraphraser"},
    "ab": {"name": "ab"},
    "kd": {},
}
"""Methods of first stages; that of `kd` is the KD row of the same table."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        label: name of the row.
        paper: the paper's accuracy in percent; None if it gives none.
        cell: the run.
    """

    label: str
    paper: float | None
    cell: Cell

    @property
    def seconds(self) -> float | None:
        """Returns the paper's seconds per epoch; None if it gives none."""
        return _SECONDS.get(self.cell.name)


_SECONDS = {
    "cifar100-ekd-resnet50-resnet18": 277.5,
    "cifar100-alone-resnet50": 205.29,
    "cifar100-kd-resnet50-resnet18": 171.07,
}
"""Section IV-E: EKD, and the teacher and the student of KD, on an NVIDIA TITAN."""

_METHODS: dict[str, tuple[str, dict[str, str]] | tuple[str, dict[str, str], str]] = {
    "alone": ("student_alone", {}),
    "KD": ("kd", {}),
    "FitNet": ("kd", {"name": "fitnet"}),
    "Attention": ("kd", {"name": "at"}),
    "Factor": ("kd", {"name": "ft"}, "paraphraser"),
    "PKT": ("kd", {"name": "pkt"}),
    "RKD": ("kd", {"name": "rkd"}),
    "Similarity": ("kd", {"name": "sp"}),
    "Correlation": ("kd", {"name": "cc"}),
    "VID": ("kd", {"name": "vid"}),
    "Abound": ("student_alone", {}, "ab"),
    "CRD": ("kd", {"name": "crd"}),
    "Res-KD": ("kd", {"name": "reskd"}, "kd"),
    "AFD": ("kd", {"name": "afd"}),
    "DML": ("student_alone", {"name": "dml"}),
    "CL-ILR": ("student_alone", {"name": "cl_ilr"}),
    "ONE": ("student_alone", {"name": "one"}),
    "Self-KD": ("student_alone", {"name": "byot"}),
    "OKDDip": ("student_alone", {"name": "okddip"}),
    "EKD": ("ekd", {}),
}
"""Rows of the paper's tables: stage of the config, its other method, and the stage before it."""


def _rows(
    pairs: Sequence[tuple[str, str]],
    numbers: Mapping[str, Sequence[float | None]],
    **options: Any,
) -> list[Row]:
    """Returns the rows of all pairs of teacher and student.

    Args:
        pairs: the columns of a table of the paper.
        numbers: its rows, one number per pair.
        **options: further fields of the cells.
    """
    found = []
    for i, (teacher, student) in enumerate(pairs):
        for label, row in numbers.items():
            stage, method, *first = _METHODS[label]
            cell = Cell(teacher, student, stage, method=method, first="".join(first), **options)
            found.append(Row(f"{teacher} -> {student}, {label}", row[i], cell))
    return found


def _ablation(label: str, paper: float | None, evolving: bool, teacher: int, student: int) -> Row:
    """Returns a row of Table V; -1 modules are all, the default of the config as in Table I."""
    arguments: dict[str, Any] = {} if evolving else {"fixed": True}
    for name, count in (("teacher_modules", teacher), ("student_modules", student)):
        if count >= 0:
            arguments[name] = count
    return Row(label, paper, Cell("resnet50", "resnet18", "ekd", arguments))


def _modules(count: int) -> Row:
    """Returns a row of Fig. 4; four modules are all, as in Table I."""
    names = ("teacher_modules", "student_modules")
    cell = Cell("vgg11", "vgg11", "ekd", dict.fromkeys(names, count) if count < 4 else {})
    return Row(f"{count} guided modules", 74.52 if count == 4 else None, cell)


def _terms(label: str, *without: str) -> Row:
    """Returns a row of Fig. 5 with some weights of 0."""
    method = {f"{name}_weight": 0.0 for name in without}
    return Row(label, None, Cell("vgg19", "vgg11", "ekd", method=method, config="ekd/cifar10"))


def _fractions(fraction: float) -> list[Row]:
    """Returns the rows of Fig. 7 for one fraction of the training images."""
    arguments = {"fraction": fraction} if fraction < 1 else {}
    found = []
    for label in ("alone", "KD", "FitNet", "CRD", "EKD"):
        stage, method, *_ = _METHODS[label]
        cell = Cell("resnet50", "resnet18", stage, arguments, method)
        found.append(Row(f"{100 * fraction:g} % of the images, {label}", None, cell))
    return found


_HORKD = Cell("resnet50", "resnet18", "student", {"resolution": 16}, config="horkd/cifar100")
_OKDDIP = {"arguments": {"recipe": "okddip"}}

TABLES: dict[str, list[Row]] = {
    "1": _rows(
        [
            *[("vgg19", "vgg11"), ("vgg11", "vgg11"), ("resnet50", "resnet18")],
            *[("resnet18", "resnet18"), ("resnet101", "resnet50"), ("resnet50", "resnet50")],
            ("wrn_50_2", "wrn_50_2"),
        ],
        {
            "alone": (70.76, 70.76, 76.61, 76.61, 78.71, 78.71, 80.24),
            "KD": (73.28, 72.12, 77.57, 78.97, 79.16, 79.54, 80.41),
            "FitNet": (71.51, 71.00, 76.59, 77.58, 79.76, 79.18, 80.84),
            "Attention": (72.94, 70.09, 76.82, 77.37, 80.01, 78.81, 80.58),
            "Factor": (68.12, 68.12, 75.26, 73.81, 77.54, 73.07, 80.12),
            "PKT": (73.15, 72.43, 78.44, 78.51, 79.51, 79.66, 80.85),
            "RKD": (72.81, 71.88, 78.21, 78.10, 80.07, 78.73, 80.40),
            "Similarity": (73.49, 72.10, 78.71, 78.55, 80.39, 79.44, 80.87),
            "Correlation": (70.90, 71.35, 77.48, 77.83, 78.17, 77.18, 80.37),
            "VID": (72.83, 72.32, 77.71, 78.16, 78.17, 76.76, 80.88),
            "Abound": (71.88, 71.07, 77.70, 77.47, 79.02, 78.46, 80.95),
            "CRD": (71.73, 73.00, 78.92, 78.18, 80.25, 79.45, 81.14),
            "EKD": (74.12, 74.52, 82.05, 80.74, 81.91, 82.48, 82.53),
        },
    ),
    "2": _rows(
        [
            *[("resnet18", "vgg8"), ("vgg11", "shufflenet_v1"), ("resnet18", "shufflenet_v2")],
            *[("wrn_50_2", "shufflenet_v1"), ("wrn_50_2", "vgg8")],
        ],
        {
            "alone": (69.21, 66.18, 70.48, 66.18, 69.21),
            "KD": (71.17, 72.40, 75.03, 71.78, 70.31),
            "FitNet": (70.59, 70.50, 72.24, 70.46, 70.04),
            "Attention": (71.62, 69.64, 73.83, 70.55, 69.78),
            "Factor": (68.06, 68.16, 69.99, 70.51, 70.12),
            "PKT": (72.74, 72.06, 74.31, 69.80, 69.76),
            "RKD": (71.03, 70.92, 73.26, 70.58, 70.41),
            "Similarity": (73.07, 72.31, 74.95, 70.70, 70.00),
            "Correlation": (69.82, 70.70, 72.21, 70.66, 69.96),
            "VID": (71.75, 70.59, 72.07, 71.61, 71.00),
            "Abound": (70.42, 72.56, 74.64, 74.28, 69.81),
            "CRD": (73.17, 72.38, 74.88, 71.08, 72.50),
            "EKD": (73.82, 73.18, 75.26, 73.61, 74.05),
        },
    ),
    "3": [
        *_rows(
            [("vgg16_okddip",) * 2, ("resnet110_okddip",) * 2],
            {
                "alone": (73.81, 75.88),
                "DML": (74.67, 77.50),
                "Self-KD": (75.38, 77.04),
                "OKDDip": (75.12, 78.91),
                "CL-ILR": (74.38, 78.44),
                "ONE": (74.37, 78.33),
                "EKD": (76.86, 79.28),
            },
            **_OKDDIP,
        ),
    ],
    "4": _rows(
        [("resnet34", "resnet18")],
        {
            "alone": (65.30,),
            "KD": (68.18,),
            "FitNet": (67.79,),
            "Attention": (67.82,),
            "RKD": (67.72,),
            "CRD": (68.19,),
            "Res-KD": (68.62,),
            "AFD": (68.80,),
            "EKD": (69.46,),
        },
        arguments={"imagenet": True},
        config="ekd/tiny_imagenet",
    ),
    "5": [
        Row("KD", 77.57, Cell("resnet50", "resnet18", "kd")),
        _ablation("KD, weights of EKD", None, False, 0, 0),
        _ablation("KD + ET", 79.71, True, 0, 0),
        _ablation("KD + S_G", 78.85, False, 0, -1),
        _ablation("KD + S_G + ET", 81.34, True, 0, -1),
        _ablation("KD + T_G + S_G", 80.01, False, -1, -1),
        _ablation("KD + T_G + S_G + ET (EKD)", 82.05, True, -1, -1),
    ],
    "fig3": _rows(
        [("resnet50", "resnet18")],
        {"alone": (None,), "KD": (None,), "CRD": (None,), "EKD": (None,)},
        arguments={"imagenet": True},
        config="ekd/tiny_imagenet",
    ),
    "fig4": [_modules(count) for count in range(5)],
    "fig5": [
        _terms("L_L", "soft", "feature", "cross", "cross_feature"),
        _terms("L_L + L_D + L_F", "cross", "cross_feature"),
        _terms("L_L + L_G", "soft", "feature"),
        _terms("L_L + L_D + L_G", "feature"),
        _terms("L_L + L_F + L_G", "soft"),
        _terms("L_L + L_D + L_F + L_G"),
    ],
    "fig6": [
        *_rows(
            [("resnet50", "resnet18")],
            # The paper's text: 1.31 above HORKD's 74.65.
            {"alone": (None,), "KD": (None,), "EKD": (75.96,)},
            arguments={"resolution": 16},
        ),
        Row("resnet50 -> resnet18, HORKD", 74.65, _HORKD),
    ],
    "fig7": [row for fraction in (0.25, 0.5, 0.75, 1.0) for row in _fractions(fraction)],
}
