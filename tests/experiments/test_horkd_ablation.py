import argparse
import pathlib

import pytest
import small_stage  # noqa: F401 - registers the network "tiny"

CONFIG = """
import small_config

def get_config(argument=None):
    config = small_config.get_config()
    config.stages.assistant = config.stages.student
    del config.stages.student
    config.pipeline = ("teacher", "assistant")
    return config
"""


@pytest.fixture(scope="module")
def ablation(script):
    return script("horkd_ablation.py")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return f"--config={path}"


def test_runs_every_order_once(ablation, config, tmp_path, capsys, monkeypatch):
    command = [f"--workdir={tmp_path}/runs", config, "--smoke", "--seeds=0", "--orders=CE,L2+LC"]
    assert ablation.main(command) == 0
    printed = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if "|" in line]
    assert rows[2:] == ["teacher", "CE", "L2 + LC"]
    assert "its best is L2 + L3 + LC" in printed
    assert pathlib.Path(tmp_path, "runs/table.md").read_text().strip() == printed.strip()

    monkeypatch.setattr("tables.Run.run", None)  # a finished table trains nothing
    assert ablation.main(command) == 0
    assert capsys.readouterr().out == printed


def test_gains_are_paired_by_seed(ablation):
    def results(*accuracies):
        return [ablation.tables.Result("tiny", 8, a, {}, 10.0, "cpu", None) for a in accuracies]

    args = argparse.Namespace(config="c.py", **dict(ablation.TERMS.values()))
    found = {"teacher": results(0.9, 0.8), "CE": results(0.5, 0.7), "L1": results(0.52, 0.72)}
    table = ablation.table(found, args, [0, 1]).splitlines()
    assert table[3].split("|")[3:5] == [" 60.00 ± 14.14 ", "           - "]
    assert table[4].split("|")[3:5] == [" 62.00 ± 14.14 ", " 2.00 ± 0.00 "]
    assert "seeds 0, 1" in table[-2]


def test_an_order_is_a_choice_of_weights(ablation):
    weights = dict(ablation.TERMS.values())
    assert ablation.method("L2+L3+LC", weights) == {
        "name": "hybrid_order",
        "feature_weight": 0.0,
        "pair_weight": 0.02,
        "triplet_weight": 0.01,
        "center_weight": 1.0,
    }
    assert len(set(ablation.ORDERS)) == 10
    assert {"CE", "L2+L3+LC", "L1+L2+L3+LC"} < set(ablation.ORDERS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--orders=L1,L4"], "'L4' is unknown; choose among CE, L1, L2, L3, LC"),
        (["--seeds=one"], "--seeds=one must be numbers"),
        (["--epoch=1"], "unrecognized arguments: --epoch=1"),
    ],
)
def test_what_is_wrong_is_one_sentence(ablation, tmp_path, capsys, options, says):
    assert ablation.main([f"--workdir={tmp_path}", *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
