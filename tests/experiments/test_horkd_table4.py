"""HORKD's Table 4 and Fig. 3: the published rows, the cells that are trained, and the numbers."""

import numpy as np
import pytest
from PIL import Image

from experiments import horkd_table4
from kd_jax.experiment import tables

PATHS = ("--cars196=cars", "--arguments=size=64,teacher=resnet18")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Returns the stages that would be trained, with their folders and teachers, in order."""
    made = []

    def run(config, folder):
        (name,) = config["stages"]
        networks = config["stages"][name]["networks"]
        height = networks["student"]["resolution"]
        made.append((name, height, networks.get("teacher", {}).get("init_from"), config["seed"]))
        recall = (50 + height / 8 + 3 * (name == "student") + config["seed"]) / 100
        metrics = {horkd_table4.METRIC: recall}
        return tables.Result("net", height, recall, metrics, 1.0, "1 x cpu (cpu)", folder / name)

    monkeypatch.setattr(tables, "run", run)
    return made


def test_all_published_rows_are_printed(tmp_path, trained, rows, capsys):
    """Ge et al., AAAI 2020, Table 4."""
    words = [f"--workdir={tmp_path}", *PATHS, "--cub200=cub", "--sop=sop", "--resolutions=64"]
    assert horkd_table4.main(words) == 0
    table = rows(capsys.readouterr().out)
    assert len(horkd_table4.ROWS) == 12
    assert table["MKD"][::2] == ["76.60", "58.00", "68.00"]
    assert table["OUR-256-R (HORKD)"][::2] == ["82.23", "57.82", "68.13"]
    assert table["Teacher (ResNet-50)"][:2] == ["75.91", "59.00 ± 1.00"]
    assert table["ResNet-101"] == ["74.80", "-", "58.90", "-", "69.50", "-"]
    assert table["MKD+AT"][4] == "-"


def test_every_student_learns_from_its_teacher_once(tmp_path, trained, rows, capsys):
    words = [f"--workdir={tmp_path}", *PATHS, "--resolutions=64,32", "--seeds=0,1"]
    assert horkd_table4.main(words) == 0
    assert len(trained) == 2 * 11
    assert len({*trained}) == len(trained)
    first = {(name, height): teacher for name, height, teacher, _ in trained[:11]}
    teacher = str(tmp_path / "cars196" / "seed0" / "teacher_64" / "teacher")
    assert first["assistant", 64] == first["student_direct", 32] == first["student_mkd", 64]
    assert first["assistant", 64] == teacher
    assert first["student", 32].endswith("assistant_64/assistant")
    assert first["student_alone", 32] is None
    found = rows(capsys.readouterr().out)["32"]
    assert found[0] == "54.50 ± 0.71"
    assert found[-2:] == ["+3.00 ± 0.00"] * 2
    assert (tmp_path / "table.md").exists()
    pixels = np.asarray(Image.open(tmp_path / "fig3_cars196.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # lines and words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "set one of --cars196, --cub200, --sop to a folder"),
        (["--sop=sop", "--resolutions=low"], "--resolutions=low must be heights"),
        (["--sop=sop", "--seeds=a"], "--seeds=a must be whole numbers"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path, words, message, capsys):
    assert horkd_table4.main([f"--workdir={tmp_path}", *words]) == 2
    assert message in capsys.readouterr().err
