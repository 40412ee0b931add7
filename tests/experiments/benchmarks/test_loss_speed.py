import jax
import numpy as np
import pytest

from experiments.benchmarks import loss_cases, loss_speed, peaks
from kd_jax import losses

HELPERS = {"ContrastMemory", "class_centers", "contrast_memory", "contrast_negatives"}
HELPERS |= {"a_softmax_blend", "hybrid_order_and_terms"}
HELPERS |= {"shared_contrast_negatives", "standardized_logits"}
TINY = {
    "rows": (9, 6),
    "angles": (9, 6),
    "logits": (9, 5),
    "maps": (4, 3, 5, 7),
    "memory": (4, 8, 20, 6),
}
OPTIONS = [f"--{kind}={'x'.join(map(str, size))}" for kind, size in TINY.items()]


def test_every_public_loss_is_measured():
    public = set(losses.__all__) - HELPERS
    assert public <= set(loss_cases.CASES)
    variants = set(loss_cases.CASES) - public
    assert all(any(name.startswith(f"{loss}_") for loss in public) for name in variants)


def test_pytorch_has_the_same_values_and_gradients():
    pytest.importorskip("torch")
    arrays = {}
    for name, case in loss_cases.CASES.items():
        rng = np.random.default_rng(1)
        size = TINY[case.sizes[0]]
        arrays[name] = case.inputs(
            lambda *shape, rng=rng: rng.standard_normal(shape, np.float32), *size
        )

    def all_of_ours(arrays):
        return {
            name: jax.value_and_grad(lambda *x, case=case: case.loss(*x).mean())(*arrays[name])
            for name, case in loss_cases.CASES.items()
        }

    # One program with little optimization takes the least time to compile.
    program = jax.jit(all_of_ours).lower(arrays).compile({"xla_backend_optimization_level": 0})
    ours, gaps = program(arrays), {}
    for name, each in arrays.items():
        theirs = loss_speed.in_torch(name, each)()
        gaps[name] = loss_speed.disagreement(ours[name], theirs)
    assert {name: gap for name, gap in gaps.items() if not gap < 1e-4} == {}


def test_prints_a_table_without_pytorch(capsys, monkeypatch, rows):
    monkeypatch.setattr(loss_speed, "HAS_TORCH", False)
    only = ["--only", "feature_l1", "rkd_distance"]
    assert loss_speed.main([*only, *OPTIONS, "--repeats=1"]) == 0
    printed = capsys.readouterr().out
    assert "no PyTorch: run `pip install torch`" in printed
    table = rows(printed)
    assert table["feature_l1"][0] == "9x6"
    assert table["feature_l1"][2] == table["feature_l1"][-1] == "-"
    assert float(table["rkd_distance"][-2]) >= 0  # its matrix products


def test_a_difference_from_pytorch_is_an_error(capsys, monkeypatch):
    pytest.importorskip("torch")
    options = ["--only", "feature_l1", *OPTIONS, "--repeats=1"]
    assert loss_speed.main(options) == 0
    assert "Values and gradients are PyTorch's to" in capsys.readouterr().out
    for wrong in (1.01, float("nan")):
        case = loss_cases.CASES["feature_l1"]
        case = case._replace(loss=lambda *x, wrong=wrong: wrong * losses.feature_l1(*x))
        monkeypatch.setitem(loss_cases.CASES, "feature_l1", case)
        assert loss_speed.main(options) == 1
        assert "error: feature_l1 differs from PyTorch's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "says"),
    [("--rows=12", "'12' is not NxD"), ("--rows=axb", "'axb' is not NxD"), ("--only=kd", "'kd'")],
)
def test_a_wrong_option_is_one_sentence(option, says, capsys):
    assert loss_speed.main([option]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_triplets_have_a_bound_where_the_peak_is_known(monkeypatch):
    monkeypatch.setattr(loss_speed, "HAS_TORCH", False)
    monkeypatch.setattr(peaks, "peak", lambda *_: 25e9)
    numbers, gap = loss_speed.measured("triplet_relation", (9, 6), cubes=9, repeats=1)
    assert numbers[-1] == pytest.approx(1e-6 * 9 * 8 * 7 / 2)
    assert gap is None
