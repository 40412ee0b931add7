import re

import jax
import numpy as np
import pytest

from kd_jax import losses

HELPERS = {"ContrastMemory", "class_centers", "contrast_memory", "contrast_negatives"}
HELPERS |= {"a_softmax_blend"}
TINY = {"rows": (9, 6), "angles": (9, 6), "logits": (9, 5), "maps": (4, 3, 5, 7)}
TINY["memory"] = (4, 8, 20, 6)
OPTIONS = [f"--{kind}={'x'.join(map(str, size))}" for kind, size in TINY.items()]


@pytest.fixture(scope="module")
def benchmark(script):
    return script("benchmarks/losses.py")


def inputs(case):
    rng = np.random.default_rng(1)
    size = TINY[case.sizes[0]]
    return case.inputs(lambda *shape: rng.standard_normal(shape, np.float32), *size)


def test_every_public_loss_is_measured(benchmark):
    public = set(losses.__all__) - HELPERS
    assert public <= set(benchmark.CASES)
    variants = set(benchmark.CASES) - public
    assert all(any(name.startswith(f"{loss}_") for loss in public) for name in variants)


def test_pytorch_has_the_same_values_and_gradients(benchmark):
    pytest.importorskip("torch")
    arrays = {name: inputs(case) for name, case in benchmark.CASES.items()}

    def all_of_ours(arrays):
        return {
            name: jax.value_and_grad(lambda *x, case=case: case.loss(*x).mean())(*arrays[name])
            for name, case in benchmark.CASES.items()
        }

    # one program, little optimized, takes the least time to compile
    program = jax.jit(all_of_ours).lower(arrays).compile({"xla_backend_optimization_level": 0})
    ours, gaps = program(arrays), {}
    for name, each in arrays.items():
        theirs = benchmark.of_torch(getattr(benchmark.torch_losses, name), each)()
        gaps[name] = benchmark.disagreement(ours[name], theirs)
    assert {name: gap for name, gap in gaps.items() if not gap < 1e-4} == {}


def test_prints_a_table(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "torch", None)
    only = ["--only", "feature_l1", "rkd_distance", "triplet_relation"]
    assert benchmark.main([*only, *OPTIONS, "--repeats=1"]) == 0
    printed = capsys.readouterr().out
    assert "no PyTorch: pip install torch" in printed
    numbers = r"\d+\.\d\d +\| +- \| +- \| +\d\.\d\d \| +\d\.\d"
    assert re.search(rf"^\| feature_l1 +\| 9x6 +\| +{numbers} \| +- \| +- \|$", printed, re.M)
    assert re.search(rf"^\| rkd_distance +\| 9x6 +\| +{numbers} \| +\d+\.\d\d \|", printed, re.M)
    assert printed.count("\n| ") == 5


def test_says_when_a_loss_is_not_pytorchs(benchmark, capsys, monkeypatch):
    pytest.importorskip("torch")
    options = ["--only", "feature_l1", *OPTIONS, "--repeats=1"]
    assert benchmark.main(options) == 0
    printed = capsys.readouterr().out
    assert "Values and gradients are PyTorch's to" in printed
    assert re.search(r"^\| feature_l1 +\| 9x6 +(\| +\d+\.\d\d ){3}", printed, re.M)
    for wrong in (1.01, float("nan")):
        case = benchmark.CASES["feature_l1"]
        case = case._replace(loss=lambda *x, wrong=wrong: wrong * losses.feature_l1(*x))
        monkeypatch.setitem(benchmark.CASES, "feature_l1", case)
        assert benchmark.main(options) == 1
        assert "error: this is not PyTorch's" in capsys.readouterr().err


def test_sizes_are_checked(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--rows=12"])
    assert "'12' is not NxD" in capsys.readouterr().err


def test_triplets_have_a_bound_where_the_peak_is_known(benchmark, monkeypatch):
    assert benchmark.peak("cpu") is None
    assert benchmark.peak("NVIDIA A100-SXM4-80GB") == 19.5e12
    assert benchmark.peak("NVIDIA H100 80GB HBM3") == 67e12
    assert benchmark.peak("NVIDIA H100 PCIe") == 51e12
    monkeypatch.setattr(benchmark, "torch", None)
    monkeypatch.setattr(benchmark, "peak", lambda _: 25e9)
    numbers, gap = benchmark.measured("triplet_relation", (9, 6), cubes=9, repeats=1)
    assert numbers[-1] == pytest.approx(1e-6 * 9 * 8 * 7 / 2)
    assert gap is None
