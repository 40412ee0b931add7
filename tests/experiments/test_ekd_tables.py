import argparse

import pytest

from experiments import ekd_tables
from kd_jax.data.sources.npz import Npz
from kd_jax.data.sources.tiny_imagenet import TinyImageNet
from kd_jax.experiment import tables
from kd_jax.experiment.specs import experiment
from kd_jax.methods import EKD, KD, Supervised


def specification(cell, path="tiny"):
    known = ("width", "epochs", "dtype", "smoke", "data_dir", "train_split")
    args = argparse.Namespace(**dict.fromkeys(known), path=path)
    teacher = "/folder" if cell.fixed_teacher else None
    config = ekd_tables._config(cell, 5, args)
    return experiment(tables.one_stage(config, cell.stage, teacher=teacher))


def test_every_cell_is_a_stage_that_can_be_built():
    methods = {"ekd": EKD, "kd": KD, "student_alone": Supervised}
    cells = {row.cell.name: row.cell for rows in ekd_tables.TABLES.values() for row in rows}
    cells |= {c.fixed_teacher.name: c.fixed_teacher for c in cells.values() if c.fixed_teacher}
    trained = {}
    for name, cell in cells.items():
        spec = specification(cell)
        (stage,) = spec.stages.values()
        assert type(stage.method) is methods[cell.stage]
        assert stage.networks["student"].name == cell.student
        # Equal runs are one cell.
        teacher = cell.fixed_teacher and cell.fixed_teacher.name
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
        before = row.cell.fixed_teacher
        assert before is None or specification(before).data.train_fraction == 1


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
        *("2", "80.00 ± 1.41", "82.50 ± 1.41", "81.34", "-1.34", "1,240", "2.5")
    ]


def test_tables_share_their_cells(trained, tmp_path, capsys, rows):
    assert ekd_tables.main([f"--workdir={tmp_path}", "--tables=5,fig7", "--rows=KD"]) == 0
    assert len(trained) == len(set(trained))  # the fixed ResNet-50 too
    printed = capsys.readouterr().out
    assert rows(printed)["KD + ET"][3:5] == ["79.71", "+0.29"]
    assert (tmp_path / "table.md").read_text().strip() == printed.strip()
