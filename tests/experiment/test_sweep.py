import json

import numpy as np
import pytest
import small_config

from kd_jax.core.errors import UsageError
from kd_jax.experiment.sweep import Sweep, mean_and_error, mean_and_std, run_sweep, table

CONFIG = small_config.changed(
    {
        "stages.student.method": {"name": "kd"},
        "stages.teacher.epochs": 0.5,
        "stages.student.epochs": 0.5,
    }
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Folder and results of two seeds of two values over one teacher."""
    folder = tmp_path_factory.mktemp("sweep")
    sweep = Sweep((0, 1), {"stages.student.method.temperature": ("2.0", "8.0")}, ("teacher",))
    return folder, sweep, run_sweep(CONFIG, folder, sweep)


def test_every_seed_meets_every_value_over_one_shared_stage(swept):
    folder, _, found = swept
    assert [(run["values"], run["seed"]) for run in found["runs"]] == [
        ({"stages.student.method.temperature": value}, seed)
        for value in ("2.0", "8.0")
        for seed in (0, 1)
    ]
    assert [[s["name"] for s in run["stages"]] for run in found["runs"]] == [["student"]] * 4
    config = json.loads((folder / "temperature=2.0" / "seed1" / "config.json").read_text())
    student = config["stages"]["student"]
    assert (config["seed"], student["method"]["temperature"]) == (1, 2.0)
    assert student["networks"]["teacher"]["init_from"] == str(folder / "shared" / "teacher")
    assert json.loads((folder / "sweep.json").read_text()) == found
    accuracies = [run["stages"][0]["last"]["accuracy"] for run in found["runs"]]
    assert len(set(accuracies)) > 1


def test_a_finished_sweep_is_not_run_again(swept):
    folder, sweep, found = swept
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("stage.json")}
    assert run_sweep(CONFIG, folder, sweep) == found
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("stage.json")} == before


def test_the_gain_is_paired_by_seed():
    accuracies = {"alone": [0.50, 0.60, 0.70], "taught": [0.52, 0.61, 0.73]}
    runs = [
        {
            "values": {},
            "seed": seed,
            "stages": [{"name": n, "last": {"accuracy": a[seed]}} for n, a in accuracies.items()],
        }
        for seed in range(3)
    ]
    found = {"seeds": [0, 1, 2], "baseline": "alone", "metrics": [], "runs": runs}
    text = table(found)
    gains = np.array([2, 1, 3])
    error = gains.std(ddof=1) / np.sqrt(3)
    assert f"+{gains.mean():.2f} ± {error:.2f}" in text
    assert "60.00 ± 10.00" in text
    assert "gain over alone" in text
    assert "on the test images" in text


def test_the_table_shows_the_chosen_metrics():
    last = {"accuracy": 0.5, "pairs/accuracy_8": 0.25}
    stages = [{"name": "student", "last": last}, {"name": "other", "last": {"accuracy": 0.5}}]
    runs = [{"values": {}, "seed": 0, "stages": stages}]
    metrics = ["pairs/accuracy_8", "accuracy"]
    text = table({"seeds": [0], "baseline": None, "metrics": metrics, "runs": runs})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert cells[0] == ["stage", *metrics]
    assert cells[2:4] == [["student", "25.00", "50.00"], ["other", "-", "50.00"]]


def test_means_of_one_value_have_no_spread():
    assert (mean_and_std([0.5]), mean_and_error([0.01])) == ("50.00", "+1.00")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seeds": ()}, "name one seed or more, each once"),
        ({"seeds": (1, 1)}, "name one seed or more, each once"),
        ({"seeds": (0,), "values": {"seed": ()}}, "--sweep=seed: name one value or more"),
        ({"seeds": (0,), "shared": ("techer",)}, "--shared = 'techer' is unknown"),
        ({"seeds": (0,), "baseline": "alone"}, "--baseline = 'alone' is unknown"),
        ({"seeds": (0,), "stages": ("alone",)}, "--stages = 'alone' is unknown"),
        ({"seeds": (0,), "stages": ("student",), "baseline": "teacher"}, "'teacher' is unknown"),
        ({"seeds": (0,), "shared": ("teacher", "student")}, "names every stage"),
        ({"seeds": (0,), "values": {"data.batchsize": ("1",)}}, "data.batchsize is not used"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_training(tmp_path, options, says):
    with pytest.raises(UsageError, match=says):
        run_sweep(small_config.get_config().to_dict(), tmp_path, Sweep(**options))
    assert not list(tmp_path.rglob("stage.json"))
