import json

import pytest
import small_faces

from experiments import kdim_tables
from kd_jax.experiment.config_files import load_config

ARGUMENT = "smoke,teacher=narrow,student=narrow,resolution=14,loss=cross_entropy"


@pytest.mark.long  # test_face_tables.py has a shorter one
@pytest.mark.usefixtures("one_device")
def test_a_smoke_run_resumes_and_the_table_holds_its_numbers(
    tmp_path, capsys, monkeypatch, rows, no_training
):
    small_faces.write(tmp_path / "faces", scale=6)
    config = load_config(f"kdim/lfw:baselines=true,{ARGUMENT}")
    config.data.source.size = None
    monkeypatch.delitem(kdim_tables.STAGES, "alone_hr")  # trained as alone_lr
    del config.stages.alone_hr
    config.pipeline = tuple(name for name in config.pipeline if name != "alone_hr")
    monkeypatch.setattr(kdim_tables, "load_config", lambda _: config)
    options = [f"--{name}={tmp_path / 'faces'}" for name in ("path", "images")]
    options += [f"--pairs={tmp_path / 'faces' / 'pairs.txt'}", f"--workdir={tmp_path}"]
    options += ["--seeds=0", f"--config=kdim/lfw:{ARGUMENT}"]
    assert kdim_tables.main(options) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text().strip() == printed.strip()
    table = rows(printed)
    for stage, name in kdim_tables.STAGES.items():
        path = tmp_path / "seed_0" / stage / "verification_pairs_plain.json"
        sizes = json.loads(path.read_text())["sizes"]
        accuracies = [f"{100 * sizes[c]['accuracy']:.2f}" for c in kdim_tables.COLUMNS]
        found = next(line for line in printed.splitlines() if line.startswith(f"| {name} "))
        assert [cell.strip() for cell in found.split("|")][2:7] == accuracies
    assert table["ratio (the paper: 5)"]
    assert table["DCR, Lu et al., 2018"] == ["-", "-", "-", "73.30 / 93.50 / 98.00"]
    assert "probes: blur 0.5, down bicubic, up bicubic" in printed

    no_training()
    monkeypatch.setattr(kdim_tables, "load", None)  # nothing is embedded again
    assert kdim_tables.main(options) == 0
    assert capsys.readouterr().out == printed


def test_gains_and_ratios_are_paired_by_seed(rows):
    def found(accuracy):
        return {"sizes": {column: {"accuracy": accuracy} for column in kdim_tables.COLUMNS}}

    def run(seconds):
        names = {"teacher_lr": 3 * seconds, "kd": seconds, "kdim": seconds}
        return {"stages": [{"name": name, "seconds": value} for name, value in names.items()]}

    verified = {
        seed: {stage: found(alone + 0.02 * (stage == "kdim")) for stage in kdim_tables.STAGES}
        for seed, alone in ((0, 0.5), (1, 0.7))
    }
    gains = rows(kdim_tables._gains(verified, [0, 1]))
    assert gains["KDim, eq. 9"][0] == "+2.00 ± 0.00"
    assert gains["L2 variant, eq. 6"][0] == "+0.00 ± 0.00"
    seconds = rows(kdim_tables._seconds({0: run(10.0), 1: run(20.0)}, [0, 1]))
    assert seconds["ratio (the paper: 5)"] == ["4.00"]
