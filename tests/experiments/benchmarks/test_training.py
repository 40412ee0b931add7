import re

import numpy as np
import pytest
import small_stage  # noqa: F401 - registers the network "tiny"

from kd_jax import losses


@pytest.fixture(scope="module")
def training(script):
    return script("benchmarks/training.py")


def test_costs_are_per_cent_of_the_bare_networks_within_each_round(training):
    # the second round is twice as slow throughout, as on a machine with other work
    times = {
        "networks": [100.0, 200.0],
        "losses": [104.0, 208.0],
        "loop": [105.0, 210.0],
    }
    assert training.extra(times, "losses", "networks").median == pytest.approx(4)
    assert training.extra(times, "loop", "losses").median == pytest.approx(1)
    text = training.report(times, 64, 98.94e12 * 0.1575, "NVIDIA H200")
    assert "| + losses         |    156.00 |" in text
    assert re.search(r"\+ loop .* 406 \|   \+1\.0 % \|", text)  # 64 images in 157.5 ms
    assert "costs +5.0 % more than its networks" in text
    assert "by each one's fastest round +5.0 %" in text
    assert "98.9 TFLOP/s in the loop; share of the chip's bfloat16 peak: 10.0%" in text
    assert "peak: -." in training.report(times, 64, 1e12, "cpu")


def test_spread_is_median_and_quartiles(training):
    assert training.spread([5, 1, 2, 4, 3]) == (3, 2, 4)
    assert training.spread([7]) == (7, 7, 7)


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
    ],
)
def test_peak_by_the_longest_name(training, kind, tflops):
    assert training.peak(kind) == tflops * 1e12
    assert training.peak("cpu") is None


def test_rungs_run_in_turn_and_the_first_round_does_not_count(training):
    calls = []
    rungs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = training.measure(rungs, steps=2, rounds=2)
    assert "".join(calls) == "abbaab"
    assert [len(each) for each in times.values()] == [2, 2]


def test_measures_the_loop_of_a_stage(training, capsys):
    options = ["--network=tiny", "--batch=8", "--steps=2", "--rounds=1", "--images=32"]
    assert training.main([*options, "--devices=2"]) == 0
    printed = capsys.readouterr().out
    parts = re.findall(r"^\| \+? ?([a-z ]+?) +\| +([\d.]+)", printed, re.MULTILINE)
    names = [name for name, _ in parts]
    assert names == ["part", "networks", "losses", "data and views", "optimizer", "loop"][-5:]
    assert all(float(ms) > 0 for _, ms in parts)
    assert "tiny at 16x16, frozen assistant at 32x32, width 1, float32, batch 8; 2 x" in printed
    assert re.search(r"The whole loop costs [+-]\d", printed)
    assert training.main([*options, "--devices=3"]) == 2
    assert "does not divide over 3 devices" in capsys.readouterr().err


def test_pytorch_loop_has_the_same_loss(script):
    torch = pytest.importorskip("torch")
    loop = script("benchmarks/torch_loop.py")
    student, teacher, centers = np.random.default_rng(0).normal(size=(3, 10, 6)).astype("float32")
    ours = {
        "feature": losses.feature_l1(student, teacher).mean(),
        "pair": losses.pair_relation(student, teacher),
        "triplet": losses.triplet_relation(student, teacher),
        "center": losses.center_relation(student, teacher, centers).mean(),
    }
    tensors = [torch.from_numpy(x) for x in (student, teacher, centers)]
    for term, value in ours.items():
        weights = {name: float(name == term) for name in ours}
        assert float(loop.hybrid_order(*tensors, **weights)) == pytest.approx(float(value), 1e-4)


def test_pytorch_loop_trains_beside_the_others(script):
    pytest.importorskip("torch")
    loop = script("benchmarks/torch_loop.py")
    images = np.zeros((8, 8, 8, 3), np.uint8)
    weights = {"feature": 1.0, "pair": 0.02, "triplet": 0.01, "center": 1.0}
    rung = loop.training(
        images,
        np.zeros(8),
        lambda step: np.arange(4) + step,
        weights,
        width=0.05,
        resolution=4,
        bfloat16=False,
        steps=2,
    )
    rung()


def test_missing_pytorch_is_said_first(training, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    monkeypatch.delitem(__import__("sys").modules, "torch_loop", raising=False)
    assert training.main(["--torch", "--network=resnet18", "--devices=1"]) == 2
    assert "pip install torch" in capsys.readouterr().err
