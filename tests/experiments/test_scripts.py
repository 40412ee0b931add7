"""Wrong options of the scripts are one sentence, and the scripts run as files."""

import importlib
import pathlib
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("script", "options", "says"),
    [
        ("horkd_table1", ["--cells=OUR-8-R"], "--cells = 'OUR-8-R' is unknown: choose one of OUR-"),
        ("horkd_table1", ["--epochs=few"], "argument --epochs: invalid int value: 'few'"),
        ("horkd_ablation", ["--orders=L1,L4"], "--orders = 'L4' is unknown: choose one of "),
        ("horkd_ablation", ["--seeds=one"], "--seeds=one must be whole numbers, such as 0,1,2"),
        ("horkd_ablation", ["--epoch=1"], "option = '--epoch' is unknown"),
        ("ekd_tables", ["--tables=6"], "--tables = '6' is unknown"),
        ("ekd_tables", ["--tables=4"], "data.source.path is missing"),
        ("kdim_tables", ["--pairs=no.txt"], "--images is missing: type for example `python"),
        ("face_tables", ["--tables=4"], "--tables = '4' is unknown: choose one of "),
        ("face_tables", ["--path=faces", "--tables=2"], "--images is missing: type for example"),
        ("face_tables", ["--path=faces", "--tables=6"], "--uccs is missing: type for example"),
        ("tsne", ["nothing/stage"], "nothing/stage belongs to no run"),
    ],
)
def test_a_wrong_option_is_one_sentence(script, options, says, tmp_path, capsys):
    module = importlib.import_module(f"experiments.{script}")
    assert module.main([f"--workdir={tmp_path}", *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "script",
    ["horkd_table1", "horkd_ablation", "ekd_tables", "kdim_tables", "face_tables", "tsne"],
)
def test_a_script_of_a_table_runs_as_a_file(script, tmp_path, capsys, monkeypatch):
    """The folder of the script is on the path, and the root of the repository is not."""
    path = ROOT / "experiments" / f"{script}.py"
    others = [x for x in sys.path if pathlib.Path(x).resolve() != ROOT]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(path.parent), *others])
    monkeypatch.setattr("sys.argv", [str(path), "--help"])
    for name in [name for name in sys.modules if name.partition(".")[0] == "experiments"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0
    assert f"python experiments/{script}.py --workdir=" in capsys.readouterr().out


@pytest.mark.parametrize(
    "module",
    [
        path.stem
        for path in sorted((ROOT / "experiments" / "benchmarks").glob("*.py"))
        if "__main__" in path.read_text()
    ],
)
def test_a_benchmark_is_a_module(module, capsys):
    found = importlib.import_module(f"experiments.benchmarks.{module}")
    assert found.main(["--help"]) == 0
    assert f"python -m experiments.benchmarks.{module}" in capsys.readouterr().out
    assert found.main(["--no_such_option"]) == 2
    assert "option = '--no_such_option' is unknown" in capsys.readouterr().err


def test_a_benchmark_that_runs_as_a_file_names_the_right_command(tmp_path):
    path = ROOT / "experiments" / "benchmarks" / "loss_speed.py"
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "error: run `python -m experiments.benchmarks.loss_speed` in the repository root.\n"
    )
