import argparse
import re

import pytest
import small_stage  # noqa: F401 - registers the network "tiny"


@pytest.fixture(scope="module")
def schemes(script):
    return script("benchmarks/schemes.py")


def test_two_stages_cost_the_sum_of_their_times_and_the_larger_memory(schemes):
    # the second round is twice as slow throughout, as on a machine with other work
    times = {"teacher alone": [60.0, 120.0], "KD": [40.0, 80.0], "EKD": [120.0, 240.0]}
    memory = {"teacher alone": 300 * 2**20, "KD": 200 * 2**20, "EKD": 450 * 2**20}
    text = schemes.report(times, memory, argparse.Namespace(batch=64), steps_per_epoch=100)
    assert re.search(r"KD's two stages \| +150.00 \| .* \| +427 \| +15.0 \| +300.0 \|", text)
    assert re.search(r"EKD +\| +180.00 \| .* \| +356 \| +18.0 \| +450.0 \|", text)
    assert "EKD takes 1.20 times as long as KD's two stages (quartiles 1.20 to 1.20)" in text
    assert "1.50 times their memory" in text


def test_measures_the_stages_of_a_pair(schemes, capsys):
    options = ["--network=tiny", "--teacher=tiny", "--resolution=8", "--batch=8", "--images=32"]
    assert schemes.main([*options, "--steps=1", "--rounds=1", "--devices=1"]) == 0
    printed = capsys.readouterr().out
    assert "tiny -> tiny at height 8, width 1, float32, batch 8; 1 x cpu" in printed
    rows = re.findall(
        r"^\| ([A-Z'a-z ]+?) +\| +([\d.]+) \|.*\| +([\d.]+) \|$", printed, re.MULTILINE
    )
    assert [name for name, *_ in rows] == ["teacher alone", "KD", "KD's two stages", "EKD"]
    assert all(float(value) > 0 for row in rows for value in row[1:])


def test_the_schemes_are_stages_of_their_configs(schemes):
    for scheme in schemes.SCHEMES.values():
        values = schemes.training.runpy.run_path(f"configs/{scheme.config}")
        assert set(scheme.stages.values()) <= set(values["get_config"]("baselines=true").stages)
