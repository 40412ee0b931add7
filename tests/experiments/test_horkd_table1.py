import dataclasses
import json

import pytest

from experiments import horkd_table1
from kd_jax.experiment import tables
from kd_jax.experiment.specs import experiment
from kd_jax.methods import KD, RKD, FitNet


@pytest.mark.parametrize(("recipe", "batch_size"), [("ekd", 64), ("rkd", 128)])
def test_the_baselines_are_of_vgg11_and_may_have_the_recipe_of_rkd(
    recipe, batch_size, tmp_path, monkeypatch, capsys
):
    runs = {}

    def run(values, folder):
        runs[folder.name] = experiment(values)
        return tables.Result("net", 32, 0.5, {}, 1.0, "cpu", folder / "stage")

    monkeypatch.setattr(tables, "run", run)
    options = [f"--workdir={tmp_path}", "--cells=FitNet,RKD,KD,ALONE-32-V,ALONE-32-R"]
    assert horkd_table1.main([*options, f"--recipe={recipe}"]) == 0
    assert f"recipe={recipe}." in capsys.readouterr().out
    names = {
        name: next(iter(spec.stages.values())).networks["student"].name
        for name, spec in runs.items()
    }
    assert names.pop("ALONE-32-R") == "resnet18"
    assert names.pop("Teacher") == "resnet50"
    assert set(names.values()) == {"vgg11"}
    assert {spec.data.batch_size for spec in runs.values()} == {batch_size}
    methods = [runs[name].stages["assistant"].method for name in ("FitNet", "RKD", "KD")]
    if recipe == "rkd":
        # CE + 16 KL at temperature 4, and L2-normalized embeddings.
        assert methods == [FitNet(), RKD(variant="paper"), KD(hard_weight=1.0, soft_weight=1.0)]
    else:
        assert methods == [FitNet(), RKD(), KD()]


@pytest.mark.long  # test_face_tables.py has a shorter one
@pytest.mark.usefixtures("one_device")
def test_a_smoke_run_resumes_and_the_table_holds_its_numbers(
    cifar100_folder, tmp_path, capsys, monkeypatch, rows, no_training
):
    cells = {
        name: dataclasses.replace(cell, student="narrow")
        for name, cell in horkd_table1.CELLS.items()
    }
    monkeypatch.setattr(horkd_table1, "CELLS", cells)
    monkeypatch.setattr(horkd_table1, "TEACHER", "narrow")
    options = [f"--workdir={tmp_path}", f"--data_dir={cifar100_folder}", "--smoke"]
    options += ["--dtype=float32"]
    assert horkd_table1.main([*options, "--cells=OUR-16-R"]) == 0
    first = (tmp_path / "OUR-16-R" / "results.json").read_bytes()
    capsys.readouterr()

    assert horkd_table1.main([*options, "--cells=RKD,OUR-16-R"]) == 0  # one more cell, later
    printed = capsys.readouterr().out
    assert (tmp_path / "OUR-16-R" / "results.json").read_bytes() == first
    assert (tmp_path / "table.md").read_text().strip() == printed.strip()
    assert "Seed 0, 1 x cpu (cpu); recipe: dtype=float32, smoke." in printed
    table = rows(printed)
    trained = {"RKD", "OUR-16-R", "OUR-32-R", "Teacher"}  # with the teachers of the wanted cells
    assert {name for name, row in table.items() if row[0] == "narrow"} == trained
    for name in trained:
        (stage,) = json.loads((tmp_path / name / "results.json").read_text())["stages"]
        accuracy, paper = 100 * stage["last"]["accuracy"], cells[name].paper
        assert table[name][2:5] == [f"{accuracy:.2f}", f"{paper:.2f}", f"{accuracy - paper:+.2f}"]
    assert table["OUR-16-R"][1] == "16x16"
    assert table["FitNet"] == ["-", "-", "-", "70.08", "-", "-", "70.81 (RKD)"]
    assert table["ALONE-16-V"][3] == "not in the paper"

    no_training()  # a finished table is printed again
    assert horkd_table1.main([*options, "--cells=Teacher"]) == 0
    assert rows(capsys.readouterr().out)["Teacher"] == table["Teacher"]
    assert horkd_table1.main([*options, "--cells=Teacher", "--seed=1"]) == 2
    assert "seed was 0, is 1" in capsys.readouterr().err
