r"""Every method with few images: a public teacher, 5,000 images of CIFAR-10.

    kd-jax train --config=baselines/cifar10:method=crd,teacher=runs/resnet20 \
        --seeds=0,1,2 --workdir=runs/baselines_crd

Images, teacher, recipe and students are those of `horkd/cifar10`, whose docstring has the command
that imports the teacher. The accuracies of its stages `alone`, `kd`, `rkd` and `horkd` can
therefore be compared with those of this config. `docs/methods.md` lists the methods. The last stage
trains the student. Methods of several stages have their first stages before it.

| `method` | stages |
|---|---|
| a registered name, such as `dkd` | the student, from the teacher |
| `kd+sp` and other sums | the student by the sum of these methods, with one cross-entropy |
| `fitnet_stages` | `first`: the student by the hint alone; then KD, as in the paper |
| `ab`, `fsp` | `first`: the student without its classifier; then `second` |
| `ft` | `first`: the paraphraser of the teacher; then the student |
| `reskd` | `first`: a student by KD; then its residual student |
| `takd` | `first`: the assistant by KD; then the student by KD from the assistant |
| `born_again` | `generations` students by KD, each from the one before |
| `mean_kd` | the student from all teachers, as in `teacher=runs/one+runs/two` |
| `dml`, `cl_ilr`, `one`, `okddip`, `byot` | the online methods, which need no teacher |
| `snapshot` | `generations` cycles; the network at the end of a cycle teaches the next one |

Further arguments: `second` (`supervised`, as RepDistiller, or `kd`: the second stage of `ab` and
`fsp`), `assistant` (network of `takd`, at 32x32), `generations`, and those of `horkd/cifar10`:
`teacher`, `student`, `resolution`, `npz`, `validation`, `epochs`, `learning_rate`, `dtype`,
`smoke`. A first stage has an eighth of the epochs, as RepDistiller's 30 of 240, except those that
train a whole student. The cycles of `snapshot` share the epochs. The weights of `cl_ilr`, `one` and
`okddip` grow for 80 of 300 epochs, as in their code, or for the same fraction of fewer epochs.
Options of the method are set as in `--config.stages.student.method.negatives=4096`.
"""

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from kd_jax import methods
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.experiment import from_stage, parse_argument, sibling, stage

CHAINS = ("fitnet_stages", "takd", "born_again")
"""Methods of this config only: stages of `kd`, `fitnet` and `supervised`."""
SEVERAL = ("paraphraser", "ab", "fsp", "ft", "reskd", "snapshot")
"""Registered methods of several stages, which no sum can have; the first one is only a stage."""


def get_config(argument: str | None = None) -> ConfigDict:
    """Returns the experiment."""
    horkd = sibling(__file__, "../horkd/cifar10.py")
    arg = parse_argument(
        argument,
        smoke_values={"epochs": 1},
        method="kd",
        second=("supervised", "kd"),
        assistant="resnet32",
        generations=2,
        **horkd.ARGUMENTS,
    )
    given = {key: getattr(arg, key) for key in horkd.ARGUMENTS}
    given["teacher"] = arg.teacher.split("+")[0]  # only its stages are taken from there
    words = [f"{key}={value}" for key, value in given.items() if value != ""]
    config = horkd.get_config(",".join([*words, *["smoke"] * arg.smoke]))
    method = arg.method.replace("+", "_")
    config.experiment = f"baselines_cifar10_{method}_{arg.student}_{arg.resolution}"
    recipe = config.stages.kd.to_dict()
    config.stages = stages = _stages(arg, recipe)
    config.pipeline = tuple(stages)
    return config


def _stages(arg: SimpleNamespace, recipe: dict[str, Any]) -> dict[str, Any]:
    """Returns the stages of a method; `recipe` is a stage of `horkd/cifar10`."""
    names = arg.method.split("+")
    single = tuple(name for name in methods.names() if name not in SEVERAL)
    for name in names:
        known = single if len(names) > 1 else (*single, *SEVERAL[1:], *CHAINS)
        check_choice(name, known, "config argument method")
    if len(set(names)) < len(names):
        raise UsageError(f"config argument method={arg.method} names a method twice: name it once.")
    name, student, teacher = arg.method, recipe["networks"]["student"], from_stage(arg.teacher)

    def train(
        method: dict[str, Any], share: float = 1, rate: float | None = None, **values: Any
    ) -> dict[str, Any]:
        sgd = dict(recipe["optimizers"]["default"])
        if rate is not None:
            sgd |= {"learning_rate": rate, "schedule": {"name": "constant"}}
        epochs = max(1, round(share * recipe["epochs"]))
        every = recipe["evaluate_every"]
        return stage(method, {"default": sgd}, epochs, evaluate_every=every, **values)

    kd, hint = {"name": "kd"}, {"name": "fitnet", "hard_weight": 0.0}
    if name in ("fitnet_stages", "ab", "fsp"):
        first, second = (hint, kd) if name == "fitnet_stages" else ({"name": name}, None)
        second = second or {"name": arg.second}
        begun = student | {"init_from": "first", "init_head": False}
        networks = {"student": begun}
        if second["name"] != "supervised":
            networks["teacher"] = teacher
        return {
            "first": train(first, 1 / 8, teacher=teacher, student=student),
            "student": train(second, **networks),
        }
    if name == "ft":
        idle = {"name": "resnet8", "resolution": 8, "options": {"width": 0.25}}
        both = {"teacher": teacher, "student": student}
        return {
            "first": train({"name": "paraphraser"}, 1 / 8, 0.01, teacher=teacher, student=idle),
            "student": train({"name": "ft"}, adapters_from="first", **both),
        }
    if name == "reskd":
        first = train(kd, teacher=teacher, student=student)
        base = from_stage("first")
        residual = train({"name": "reskd"}, teacher=teacher, base=base, student=student)
        return {"first": first, "student": residual}
    if name == "takd":
        assistant = student | {"name": arg.assistant, "resolution": 32}
        first = train(kd, teacher=teacher, student=assistant)
        return {"first": first, "student": train(kd, teacher=from_stage("first"), student=student)}
    if name == "born_again":
        earlier = [f"generation{i}" for i in range(1, arg.generations)]
        order = zip([arg.teacher, *earlier], [*earlier, "student"], strict=True)
        return {own: train(kd, teacher=from_stage(t), student=student) for t, own in order}
    if name == "snapshot":
        cycles = [*(f"cycle{i}" for i in range(1, arg.generations)), "student"]
        share, stages = 1 / arg.generations, {}
        stages[cycles[0]] = train({"name": "supervised"}, share, student=student)
        for last, own in itertools.pairwise(cycles):
            both = {"teacher": from_stage(last), "student": student | {"init_from": last}}
            stages[own] = train({"name": "snapshot"}, share, **both)
        return stages
    method, networks = _single(names, arg.teacher, student, recipe["epochs"])
    return {"student": train(method, **networks)}


def _single(
    names: list[str], folders: str, student: dict[str, Any], epochs: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the method of a single stage, a sum if there are several names, and its networks."""
    method: dict[str, Any] = {"name": names[0]}
    if names == ["mean_kd"]:
        roles = {f"teacher{i}": folder for i, folder in enumerate(folders.split("+"), start=1)}
        method["teachers"] = list(roles)
        networks = {role: from_stage(folder) for role, folder in roles.items()}
        return method, networks | {"student": student}
    if len(names) > 1:
        method = {"name": "sum", "terms": {each: {"name": each} for each in names}}
        for each in names[1:]:
            if hasattr(methods.METHODS.get(each), "hard_weight"):
                method["terms"][each]["hard_weight"] = 0.0
    made = [methods.METHODS.get(each)() for each in names]
    if len(names) == 1 and isinstance(ramp := getattr(made[0], "soft_weight", None), methods.Ramp):
        method["soft_weight"] = dataclasses.asdict(ramp) | {"epochs": ramp.epochs * epochs / 300}
    if branches := max(getattr(each, "branches", 0) for each in made):
        options = {"branches": branches} | ({"branch_rescale": True} if "cl_ilr" in names else {})
        student = student | {"options": student["options"] | options}
    known = {role for each in made for role in each.roles}
    networks = {role: from_stage(folders) if role == "teacher" else student for role in known}
    return method, dict(sorted(networks.items()))
