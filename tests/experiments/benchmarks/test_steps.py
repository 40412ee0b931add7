"""The benchmarks of training steps and of methods."""

import argparse

import numpy as np
import pytest

from experiments.benchmarks import method_cost, peaks, timing, training_step
from kd_jax import losses
from kd_jax.experiment.config_files import load_config


def test_costs_are_in_percent_of_the_networks_within_each_round(rows):
    # The second round is twice as slow, as on a machine with other work.
    times = {"networks": [100.0, 200.0], "losses": [104.0, 208.0], "loop": [105.0, 210.0]}
    text = training_step.report(times, 64, 98.94e12 * 0.1575, "NVIDIA H200")
    assert rows(text)["+ losses"][0] == "156.00"
    assert rows(text)["+ loop"][3:] == ["406", "+1.0 %"]  # 64 images in 157.5 ms
    assert "costs +5.0 % more than its networks" in text
    assert "98.9 TFLOP/s in the loop; fraction of the chip's bfloat16 peak: 10.0%" in text
    assert "peak: unknown." in training_step.report(times, 64, 1e12, "cpu")


def test_a_spread_is_median_and_quartiles():
    assert timing.spread([5, 1, 2, 4, 3]) == (3, 2, 4)
    assert timing.spread([7]) == (7, 7, 7)


def test_programs_run_in_turn_and_the_first_round_does_not_count():
    calls = []
    programs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.in_rounds(programs, steps=2, rounds=2)
    assert "".join(calls) == "abbaab"
    assert [len(each) for each in times.values()] == [2, 2]


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756), ("TPU v5 lite", 197)],
)
def test_the_peak_is_that_of_the_longest_name(kind, teraflops):
    assert peaks.peak(kind, peaks.BFLOAT16) == teraflops * 1e12
    assert peaks.peak("cpu", peaks.BFLOAT16) is None


@pytest.mark.long
@pytest.mark.usefixtures("programs")
def test_measures_the_parts_of_a_step(capsys, rows):
    options = ["--network=tiny", "--batch=8", "--steps=2", "--rounds=1", "--images=32"]
    assert training_step.main([*options, "--devices=2"]) == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    for name in ("networks", "+ losses", "+ data and views", "+ optimizer", "+ loop"):
        assert float(table[name][0]) > 0
    assert "tiny at 16x16, frozen assistant at 32x32, width 1, float32, batch 8; 2 x" in printed
    assert training_step.main([*options, "--devices=3"]) == 2
    assert "3 devices" in capsys.readouterr().err


def test_two_stages_cost_the_sum_of_their_times_and_the_larger_memory(rows):
    times = {"teacher alone": [60.0, 120.0], "KD": [40.0, 80.0], "EKD": [120.0, 240.0]}
    memory = {"teacher alone": 300 * 2**20, "KD": 200 * 2**20, "EKD": 450 * 2**20}
    text = method_cost.report(times, memory, argparse.Namespace(batch=64), steps_per_epoch=100)
    both, ekd = (rows(text)[name] for name in ("KD's two stages", "EKD"))
    assert [both[0], *both[2:]] == ["150.00", "427", "15.0", "300.0"]
    assert [ekd[0], *ekd[2:]] == ["180.00", "356", "18.0", "450.0"]
    assert "EKD takes 1.20 times as long as KD's two stages (quartiles 1.20 to 1.20)" in text
    assert "1.50 times their memory" in text


@pytest.mark.usefixtures("programs")
@pytest.mark.long
def test_measures_the_stages_of_two_networks(capsys, rows):
    options = ["--network=tiny", "--teacher=tiny", "--resolution=8", "--batch=8", "--images=32"]
    assert method_cost.main([*options, "--steps=1", "--rounds=1", "--devices=1"]) == 0
    table = rows(capsys.readouterr().out)
    for name in ("teacher alone", "KD", "KD's two stages", "EKD"):
        assert float(table[name][0]) > 0
        assert float(table[name][-1]) > 0


@pytest.mark.parametrize("method", method_cost.COMPARISONS)
def test_the_compared_stages_are_in_the_config(method):
    found = method_cost.COMPARISONS[method]
    stages = load_config(f"{found.config}:baselines=true").stages
    assert set(found.stages.values()) <= set(stages)


# ----------------------------------------------------------------------------------- PyTorch


def test_the_loss_in_pytorch_is_the_same():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_losses

    student, teacher, centers = np.random.default_rng(0).normal(size=(3, 10, 6)).astype("float32")
    ours = {
        "feature": losses.feature_l1(student, teacher).mean(),
        "pair": losses.pair_relation(student, teacher, reduction="batchmean"),
        "triplet": losses.triplet_relation(student, teacher, reduction="batchmean"),
        "center": losses.center_relation(student, teacher, centers, reduction="sum").mean(),
    }
    tensors = [torch.from_numpy(x) for x in (student, teacher, centers)]
    for term, value in ours.items():
        weights = {name: float(name == term) for name in ours}
        theirs = float(torch_losses.hybrid_order(*tensors, **weights))
        assert theirs == pytest.approx(float(value), 1e-4)


def test_the_loop_in_pytorch_trains():
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_training

    program = torch_training.training(
        np.zeros((8, 8, 8, 3), np.uint8),
        np.zeros(8),
        lambda step: np.arange(4) + step,
        {"feature": 1.0, "pair": 0.02, "triplet": 0.01, "center": 1.0},
        width=0.05,
        resolution=4,
        bfloat16=False,
        steps=2,
    )
    program()


def test_a_missing_pytorch_is_an_error_at_once(capsys, monkeypatch):
    monkeypatch.setattr(training_step, "HAS_TORCH", False)
    assert training_step.main(["--torch", "--network=resnet18", "--devices=1"]) == 2
    assert "pip install torch" in capsys.readouterr().err
