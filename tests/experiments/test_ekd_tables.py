import argparse
import json

import pytest

from kd_jax.config import experiment
from kd_jax.data.folders import TinyImageNet
from kd_jax.data.sources import Npz
from kd_jax.methods import Evolutionary, SoftTargets, Supervised


@pytest.fixture(scope="module")
def ekd(script):
    return script("ekd_tables.py")


def options(**values):
    known = ("width", "epochs", "dtype", "smoke", "data_dir", "train_split")
    return argparse.Namespace(**dict.fromkeys(known) | {"path": "tiny", **values})


def specification(ekd, cell, **values):
    config = ekd._config(cell, 5, options(**values))
    before = cell.fixed_teacher
    values = ekd.tables.one_stage(config, cell.stage, teacher="/there" if before else None)
    return experiment(values)


def cells(ekd):
    found = {row.cell.name: row.cell for rows in ekd.TABLES.values() for row in rows}
    return found | {
        c.fixed_teacher.name: c.fixed_teacher for c in found.values() if c.fixed_teacher
    }


def test_every_cell_is_a_stage_that_can_be_built(ekd):
    kinds = {"ekd": Evolutionary, "kd": SoftTargets, "student_alone": Supervised}
    trained = {}
    for name, cell in cells(ekd).items():
        spec = specification(ekd, cell)
        (stage,) = spec.stages.values()
        assert type(stage.method) is kinds[cell.stage]
        assert stage.networks["student"].name == cell.student
        # two cells that would train the same are one
        teacher = cell.fixed_teacher and cell.fixed_teacher.name
        key = repr((stage, spec.data, teacher))
        assert trained.setdefault(key, name) == name


def test_the_rows_of_table_5_are_what_they_say(ekd):
    rows = {}
    for row in ekd.TABLES["5"]:
        (stage,) = specification(ekd, row.cell).stages.values()
        method = stage.method
        if isinstance(method, Evolutionary):
            rows[row.label] = (method.evolving, method.teacher_modules, method.student_modules)
    assert rows == {
        "KD, weights of EKD": (False, 0, 0),
        "KD + ET": (True, 0, 0),
        "KD + S_G": (False, 0, None),
        "KD + S_G + ET": (True, 0, None),
        "KD + T_G + S_G": (False, None, None),
        "KD + T_G + S_G + ET (EKD)": (True, None, None),
    }


def test_figure_7_takes_less_from_the_student_only(ekd):
    for row in ekd.TABLES["fig7"]:
        share = row.cell.arguments.get("fraction", 1.0)
        assert specification(ekd, row.cell).data.train_fraction == share
        before = row.cell.fixed_teacher
        assert before is None or specification(ekd, before).data.train_fraction == 1


def test_tiny_imagenet_may_be_a_folder_or_arrays(ekd):
    (row, *_) = ekd.TABLES["fig3"]
    assert specification(ekd, row.cell).data.source == TinyImageNet("tiny")
    path = "tiny_{split}.npz"
    assert specification(ekd, row.cell, path=path).data.source == Npz(path)


@pytest.fixture
def trained(ekd, monkeypatch):
    """Folders of what would have been trained; accuracies grow with the seed."""
    trained = []

    def run(values, place):
        (name,), seed = values["pipeline"], values["seed"]
        assert place.parent.name == f"seed_{seed}"
        trained.append((seed, place.name))
        json.dumps(values)
        accuracy = 0.8 + 0.01 * (seed - 5)
        metrics = {"epoch": 4.0, "images_per_second": 1234.5 + seed}
        if name == "ekd":
            metrics |= {"accuracy": accuracy, "accuracy/teacher": accuracy + 0.025}
        return ekd.tables.Result("net", 32, accuracy, metrics, 10.0, "cpu", place / name)

    monkeypatch.setattr(ekd.tables, "run", run)
    return trained


def test_several_seeds_are_a_mean_and_a_deviation(ekd, trained, tmp_path, capsys):
    command = [f"--workdir={tmp_path}", "--tables=5", "--rows=S_G + ET"]
    assert ekd.main([*command, "--seeds=4,6"]) == 0
    assert [seed for seed, _ in trained] == [4, 4, 6, 6]
    (line,) = (x for x in capsys.readouterr().out.splitlines() if "| KD + S_G + ET " in x)
    assert [cell.strip() for cell in line.strip("|").split("|")][1:] == [
        *("2", "80.00 ± 1.41", "82.50 ± 1.41", "81.34", "-1.34", "1,240", "2.5")
    ]
    assert ekd.main([*command, "--seeds=one"]) == 2
    assert "--seeds=one must be numbers, such as 0,1,2" in capsys.readouterr().err


def test_tables_share_their_cells_and_print_beside_the_papers(ekd, trained, tmp_path, capsys):
    assert ekd.main([f"--workdir={tmp_path}", "--tables=5,fig7", "--rows=KD"]) == 0
    assert len(trained) == len(set(trained))  # the fixed ResNet-50 too
    printed = capsys.readouterr().out
    assert "| KD + ET " in printed and "79.71" in printed and "+0.29" in printed
    assert "82.50" in printed
    assert (tmp_path / "table.md").read_text().strip() == printed.strip()
    assert ekd.main([f"--workdir={tmp_path}", "--tables=6"]) == 2
    assert "'6' is unknown" in capsys.readouterr().err
