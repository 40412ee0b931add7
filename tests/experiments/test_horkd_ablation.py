import argparse
import json

import pytest

from experiments import horkd_ablation
from kd_jax.experiment.tables import Result

CONFIG = """
import small_config

def get_config(argument=None):
    config = small_config.get_config()
    config.stages.assistant = config.stages.student
    del config.stages.student
    return config
"""


@pytest.mark.usefixtures("one_device")
@pytest.mark.long
def test_a_smoke_run_resumes_and_the_table_holds_its_numbers(tmp_path, capsys, rows, no_training):
    (tmp_path / "config.py").write_text(CONFIG)
    options = [f"--workdir={tmp_path}/runs", f"--config={tmp_path}/config.py", "--smoke"]
    options += ["--seeds=0", "--orders=CE,L2+LC"]
    assert horkd_ablation.main(options) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "runs" / "table.md").read_text().strip() == printed.strip()
    assert "its best is L2 + L3 + LC" in printed
    table = rows(printed)
    for name, folder in (("teacher", "teacher"), ("CE", "CE"), ("L2 + LC", "L2+LC")):
        path = tmp_path / "runs" / "seed_0" / folder / "results.json"
        (stage,) = json.loads(path.read_text())["stages"]
        assert table[name][1] == f"{100 * stage['last']['accuracy']:.2f}"

    no_training()
    assert horkd_ablation.main(options) == 0
    assert capsys.readouterr().out == printed


def test_gains_are_paired_by_seed(rows):
    def results(*accuracies):
        return [Result("tiny", 8, accuracy, {}, 10.0, "cpu", None) for accuracy in accuracies]

    args = argparse.Namespace(config="c.py", **dict(horkd_ablation.TERMS.values()))
    found = {"teacher": results(0.9, 0.8), "CE": results(0.5, 0.7), "L1": results(0.52, 0.76)}
    table = rows(horkd_ablation.table(found, args, [0, 1]))
    assert table["CE"][1:3] == ["60.00 ± 14.14", "-"]
    assert table["L1"][1:3] == ["64.00 ± 16.97", "+4.00 ± 2.00"]


def test_a_combination_is_a_choice_of_weights():
    assert horkd_ablation.method("L2+L3+LC", dict(horkd_ablation.TERMS.values())) == {
        "name": "horkd",
        "feature_weight": 0.0,
        "pair_weight": 0.02,
        "triplet_weight": 0.01,
        "center_weight": 1.0,
    }
