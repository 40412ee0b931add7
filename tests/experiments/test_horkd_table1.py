import dataclasses
import json

import pytest

from experiments import horkd_table1


@pytest.mark.slow
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
    assert table["FitNet"] == ["-", "-", "-", "70.08", "-", "-"]
    assert table["ALONE-16-V"][3] == "not in the paper"

    no_training()  # a finished table is printed again
    assert horkd_table1.main([*options, "--cells=Teacher"]) == 0
    assert rows(capsys.readouterr().out)["Teacher"] == table["Teacher"]
    assert horkd_table1.main([*options, "--cells=Teacher", "--seed=1"]) == 2
    assert "seed was 0, is 1" in capsys.readouterr().err
