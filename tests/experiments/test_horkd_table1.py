import dataclasses
import pathlib

import pytest
import small_stage

from kd_jax import models

# the configs' smoke runs ask for a twentieth of the width, which leaves "tiny" nothing
models.register("narrow", lambda width, **options: small_stage.Tiny(width=1.0, **options))


@pytest.fixture
def table1(script, monkeypatch):
    """The script with the network "narrow" in place of the paper's."""
    module = script("horkd_table1.py")
    cells = {k: dataclasses.replace(cell, student="narrow") for k, cell in module.CELLS.items()}
    monkeypatch.setattr(module, "CELLS", cells)
    monkeypatch.setattr(module, "TEACHER", "narrow")
    return module


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in cells}


@pytest.mark.usefixtures("one_device")
def test_runs_cells_beside_the_papers_and_shares_their_teachers(
    table1, cifar100_folder, tmp_path, capsys, monkeypatch
):
    options = [
        f"--workdir={tmp_path}",
        f"--data_dir={cifar100_folder}",
        "--smoke",
        "--dtype=float32",
    ]
    assert table1.main([*options, "--cells=OUR-16-R"]) == 0
    before = rows(capsys.readouterr().out)
    kept = (tmp_path / "OUR-16-R/results.json").stat().st_mtime_ns
    assert table1.main([*options, "--cells=RKD,OUR-16-R"]) == 0  # more cells, later
    assert (tmp_path / "OUR-16-R/results.json").stat().st_mtime_ns == kept
    printed = capsys.readouterr().out
    found = rows(printed)
    assert {name: row[3] for name, row in found.items()} == {
        "FitNet": "70.08",
        "Attention": "72.68",
        "RKD": "72.97",
        "KD": "74.26",
        "OUR-32-V": "73.54",
        "OUR-16-V": "69.87",
        "OUR-32-R": "76.68",
        "OUR-16-R": "74.65",
        "Teacher": "77.76",
        **dict.fromkeys(
            ("ALONE-16-V", "DIRECT-16-V", "ALONE-16-R", "DIRECT-16-R"), "not in the paper"
        ),
    }
    trained = {"RKD", "OUR-16-R", "OUR-32-R", "Teacher"}  # what the cells need is trained too
    assert {name for name, row in found.items() if row[0] == "narrow"} == trained
    assert {name: found[name] for name in trained - {"RKD"}} == {
        name: before[name] for name in trained - {"RKD"}
    }
    assert {path.parent.name for path in tmp_path.glob("*/results.json")} == trained
    assert found["OUR-16-R"][1] == "16x16"
    assert found["FitNet"] == ["-", "-", "-", "70.08", "-", "-"]
    accuracy, paper, difference = (float(x) for x in found["RKD"][2:5])
    assert difference == pytest.approx(accuracy - paper, abs=0.011)
    assert "Seed 0, 1 x cpu (cpu); recipe: dtype=float32, smoke" in printed
    assert pathlib.Path(tmp_path, "table.md").read_text().strip() == printed.strip()

    monkeypatch.setattr("tables.Run.run", None)
    assert table1.main([*options, "--cells=Teacher"]) == 0
    assert table1.main([*options, "--cells=Teacher", "--seed=1"]) == 2
    assert "seed was 0, is 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cells=OUR-8-R"], "'OUR-8-R' is unknown; choose among FitNet, Attention"),
        (["--epochs=few"], "argument --epochs: invalid int value: 'few'"),
    ],
)
def test_what_is_wrong_is_one_sentence(table1, tmp_path, capsys, options, says):
    assert table1.main([f"--workdir={tmp_path}", *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
