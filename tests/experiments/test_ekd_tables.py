import argparse

import pytest

from experiments import ekd_tables
from kd_jax.data.sources.npz import Npz
from kd_jax.data.sources.tiny_imagenet import TinyImageNet
from kd_jax.experiment import tables
from kd_jax.experiment.specs import experiment
from kd_jax.methods import EKD, FT, HORKD, KD, METHODS, RKD, Paraphrase, Supervised
from kd_jax.training.optimizers import Constant


def arguments(path="tiny", **values):
    known = ("width", "epochs", "dtype", "smoke", "data_dir", "train_split")
    recipes = ("recipe", "baseline_recipe")
    return argparse.Namespace(**dict.fromkeys(known + recipes) | values, path=path)


def specification(cell, path="tiny"):
    teacher = "/folder" if cell.before else None
    first = f"/{cell.first_cell.name}" if cell.first else None
    return experiment(ekd_tables._config(cell, 5, arguments(path), teacher, first))


def test_every_cell_is_a_stage_that_can_be_built():
    methods = {"ekd": EKD, "kd": KD, "student_alone": Supervised}
    methods |= {"student": HORKD, "assistant": HORKD}
    cells = {row.cell.name: row.cell for rows in ekd_tables.TABLES.values() for row in rows}
    for _ in range(2):  # HORKD's student has an assistant, which has a teacher
        cells |= {c.before.name: c.before for c in cells.values() if c.before}
        cells |= {c.first_cell.name: c.first_cell for c in cells.values() if c.first}
    trained = {}
    for name, cell in cells.items():
        spec = specification(cell)
        (stage,) = spec.stages.values()
        name_of_method = cell.method.get("name")
        method = METHODS.get(name_of_method) if name_of_method else methods[cell.stage]
        assert type(stage.method) is method
        assert stage.networks["student"].name == cell.student
        # Equal runs are one cell.
        teacher = cell.before and cell.before.name
        assert trained.setdefault(repr((stage, spec.data, teacher)), name) == name


def test_the_rows_of_table_5_have_their_parts():
    found = {}
    for row in ekd_tables.TABLES["5"]:
        (stage,) = specification(row.cell).stages.values()
        if isinstance(method := stage.method, EKD):
            found[row.label] = (method.evolving, method.teacher_modules, method.student_modules)
    assert found == {
        "KD, weights of EKD": (False, 0, 0),
        "KD + ET": (True, 0, 0),
        "KD + S_G": (False, 0, None),
        "KD + S_G + ET": (True, 0, None),
        "KD + T_G + S_G": (False, None, None),
        "KD + T_G + S_G + ET (EKD)": (True, None, None),
    }


def test_figure_7_has_fewer_images_for_the_student_only():
    for row in ekd_tables.TABLES["fig7"]:
        fraction = row.cell.arguments.get("fraction", 1.0)
        assert specification(row.cell).data.train_fraction == fraction
        before = row.cell.before
        assert before is None or specification(before).data.train_fraction == 1


def named(table):
    return {row.label: row for row in ekd_tables.TABLES[table]}


def test_tables_1_and_2_have_thirteen_methods_per_pair():
    assert [len(ekd_tables.TABLES[table]) for table in ("1", "2")] == [91, 65]


def test_methods_of_two_stages_start_from_their_first_stage():
    rows = named("1") | named("4")
    factor, abound, residual = (
        rows[f"{pair}, {label}"].cell
        for pair, label in (
            ("resnet50 -> resnet18", "Factor"),
            ("resnet50 -> resnet18", "Abound"),
            ("resnet34 -> resnet18", "Res-KD"),
        )
    )
    (stage,) = specification(factor).stages.values()
    assert (stage.method, stage.adapters_from) == (FT(), f"/{factor.first_cell.name}")
    (stage,) = specification(factor.first_cell).stages.values()
    assert (stage.method, stage.epochs) == (Paraphrase(), 30)  # RepDistiller's --init_epochs
    assert stage.optimizers["default"].schedule == Constant()
    (stage,) = specification(abound).stages.values()
    student = stage.networks["student"]
    assert (student.init_from, student.init_head) == (f"/{abound.first_cell.name}", False)
    assert (stage.method, abound.before) == (Supervised(), None)
    assert abound.first_cell.before == rows["resnet50 -> resnet18, KD"].cell.before
    assert residual.first_cell == rows["resnet34 -> resnet18, KD"].cell
    recipe = arguments(baseline_recipe="repdistiller")
    assert ekd_tables._with_recipe(abound, recipe).first_cell.arguments["recipe"] == "repdistiller"


def test_a_baseline_of_table_1_has_its_method_and_the_teacher_of_kd():
    rows = named("1")
    rkd, kd = (rows[f"resnet50 -> resnet18, {method}"] for method in ("RKD", "KD"))
    (stage,) = specification(rkd.cell).stages.values()
    assert stage.method == RKD()
    assert (rkd.paper, rkd.cell.before) == (78.21, kd.cell.before)
    times = [rows["resnet50 -> resnet18, EKD"].seconds, kd.seconds]
    assert [*times, rows["resnet50 -> resnet50, alone"].seconds] == [277.5, 171.07, 205.29]


def test_baselines_may_have_another_recipe():
    args = arguments(baseline_recipe="repdistiller")
    rows = named("2")
    rkd, ekd = (
        ekd_tables._with_recipe(rows[f"vgg11 -> shufflenet_v1, {method}"].cell, args)
        for method in ("RKD", "EKD")
    )
    assert ekd == rows["vgg11 -> shufflenet_v1, EKD"].cell
    for cell, rate in ((rkd, 0.01), (rkd.before, 0.05)):
        (stage,) = specification(cell).stages.values()
        assert (stage.epochs, stage.optimizers["default"].learning_rate) == (240, rate)


def test_table_3_has_the_recipe_of_okddip():
    for row in ekd_tables.TABLES["3"]:
        cell = ekd_tables._with_recipe(row.cell, arguments(recipe="rkd"))
        spec = specification(cell)
        (stage,) = spec.stages.values()
        assert (spec.data.batch_size, stage.epochs) == (128, 300)
        assert stage.networks["student"].name.endswith("_okddip")


def test_table_3_has_the_online_methods_of_okddips_code():
    rows = named("3")
    assert len(rows) == 14
    for network in ("vgg16_okddip", "resnet110_okddip"):
        (dml,) = specification(rows[f"{network} -> {network}, DML"].cell).stages.values()
        assert dml.method.targets == "mean"
        assert {x.name for x in dml.networks.values()} == {network}
        assert len(dml.networks) == 4
        (cl_ilr,) = specification(rows[f"{network} -> {network}, CL-ILR"].cell).stages.values()
        assert cl_ilr.networks["student"].options["branch_rescale"]
        assert cl_ilr.method.soft_weight.epochs == 80


def test_figure_6_has_horkd_with_its_assistant():
    student = named("fig6")["resnet50 -> resnet18, HORKD"].cell
    assistant, teacher = student.before, student.before.before
    seen = [
        specification(x).stages[x.stage].networks["student"].resolution
        for x in (teacher, assistant, student)
    ]
    assert seen == [32, 32, 16]
    assert teacher == named("1")["resnet50 -> resnet50, alone"].cell


def test_tiny_imagenet_is_enlarged_as_in_the_paper():
    for row in ekd_tables.TABLES["4"]:
        spec = specification(row.cell)
        (stage,) = spec.stages.values()
        assert spec.data.augmentation.resized_crop == 224
        assert stage.networks["student"].resolution == 224
        assert stage.networks["student"].options["stem"] == "imagenet"


def test_tiny_imagenet_may_be_a_folder_or_arrays():
    cell = ekd_tables.TABLES["fig3"][0].cell
    assert specification(cell).data.source == TinyImageNet("tiny")
    assert specification(cell, path="tiny_{split}.npz").data.source == Npz("tiny_{split}.npz")


@pytest.fixture
def trained(monkeypatch):
    """Returns the list of runs, which have invented results: accuracies grow with the seed."""
    runs = []

    def run(values, folder):
        (name,), seed = values["pipeline"], values["seed"]
        runs.append((seed, folder.name))
        metrics = {"epoch": 4.0, "images_per_second": 1234.5 + seed}
        accuracy = 0.8 + 0.01 * (seed - 5)
        if name == "ekd":
            metrics |= {"accuracy/teacher": accuracy + 0.025}
        return tables.Result("net", 32, accuracy, metrics, 10.0, "cpu", folder / name)

    monkeypatch.setattr(tables, "run", run)
    return runs


def test_a_row_holds_the_numbers_of_all_seeds(trained, tmp_path, capsys, rows):
    options = [f"--workdir={tmp_path}", "--tables=5", "--rows=S_G + ET", "--seeds=4,6"]
    assert ekd_tables.main(options) == 0
    assert [seed for seed, _ in trained] == [4, 4, 6, 6]
    assert rows(capsys.readouterr().out)["KD + S_G + ET"] == [
        *("2", "80.00 ± 1.41", "82.50 ± 1.41", "81.34", "-1.34", "1,240", "2.5", "-")
    ]


def test_tables_share_their_cells(trained, tmp_path, capsys, rows):
    assert ekd_tables.main([f"--workdir={tmp_path}", "--tables=5,fig7", "--rows=KD"]) == 0
    assert len(trained) == len(set(trained))  # the fixed ResNet-50 too
    printed = capsys.readouterr().out
    assert rows(printed)["KD + ET"][3:5] == ["79.71", "+0.29"]
    assert rows(printed)["KD"][-1] == "171.07"  # the paper's seconds per epoch
    assert (tmp_path / "table.md").read_text().strip() == printed.strip()
