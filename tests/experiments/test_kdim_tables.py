import pathlib

import pytest
import small_faces
import small_stage  # noqa: F401 - registers the network "tiny"

CONFIG = pathlib.Path(__file__).parents[2] / "configs/kdim/lfw.py"
ARGUMENT = "smoke,teacher=sphereface4,student=sphereface4,resolution=14"


@pytest.fixture(scope="module")
def kdim(script):
    return script("kdim_tables.py")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    small_faces.write(folder, scale=8)
    return folder


def command(faces, workdir):
    return [
        f"--config={CONFIG}:{ARGUMENT}",
        f"--path={faces}",
        f"--images={faces}",
        f"--pairs={faces / 'pairs.txt'}",
        f"--workdir={workdir}",
        "--seeds=0",
    ]


def test_every_network_is_trained_once_and_evaluated_at_every_size(
    kdim, faces, tmp_path, capsys, monkeypatch, one_device
):
    config = kdim.tables.load_config(f"{CONFIG}:baselines=true,{ARGUMENT}")
    config.data.source.size = None
    monkeypatch.setattr(kdim.tables, "load_config", lambda _: config)
    assert kdim.main(command(faces, tmp_path)) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text().strip() == printed.strip()
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert [row for row in rows if row in kdim.STAGES.values()][:7] == [*kdim.STAGES.values()]
    assert "94.05 / 95.20 / 96.74 / 97.13 / 99.03" in printed
    assert "ratio (the paper: 5)" in printed

    monkeypatch.setattr(kdim.tables, "Run", None)  # a finished table trains nothing
    monkeypatch.setattr(kdim, "load", None)  # and embeds nothing
    assert kdim.main(command(faces, tmp_path)) == 0
    assert capsys.readouterr().out == printed


def test_gains_and_ratios_are_paired_by_seed(kdim):
    def found(accuracy):
        return {"set": "pairs", "sizes": {c: {"accuracy": accuracy} for c in kdim.COLUMNS}}

    def run(seconds):
        names = {"teacher_lr": 3 * seconds, "kd": seconds, "kdim": seconds}
        stages = [{"name": name, "seconds": value} for name, value in names.items()]
        return {"stages": stages, "device": {"count": 1, "kind": "cpu", "platform": "cpu"}}

    results = {
        seed: {stage: found(alone + 0.02 * (stage == "kdim")) for stage in kdim.STAGES}
        for seed, alone in ((0, 0.5), (1, 0.7))
    }
    gains = kdim._gains(results, [0, 1]).splitlines()
    assert gains[-1].split("|")[2].strip() == "2.00 ± 0.00"
    assert gains[-2].split("|")[2].strip() == "0.00 ± 0.00"
    seconds = kdim._seconds({0: run(10.0), 1: run(20.0)}, [0, 1])
    assert seconds.splitlines()[-1].split("|")[2].strip() == "4.00"


def test_missing_pairs_are_one_sentence(kdim, faces, tmp_path, capsys):
    arguments = [a.replace("pairs.txt", "no.txt") for a in command(faces, tmp_path)]
    assert kdim.main(arguments) == 2
    assert "cannot be read" in capsys.readouterr().err
