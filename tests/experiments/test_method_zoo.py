import argparse
import math

import pytest

from experiments import method_zoo
from experiments.method_zoo import METHODS, Run
from kd_jax import methods
from kd_jax.experiment.specs import experiment

ARGS = argparse.Namespace(
    student="resnet20", seeds="0,1", npz="no_{split}.npz", epochs=None, teacher="no", smoke=False
)
NO_ROW = {"supervised", "sum", "mean_kd", "paraphraser", "ekd", "darkrank", "mkd"}
"""Methods without a row of their own: EKD's teacher would be as large as the public one, and
DarkRank and MKD are for retrieval."""


def test_every_method_has_a_row():
    assert set(methods.METHODS.built_in()) - NO_ROW <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_config(method):
    values = method_zoo._config(ARGS, "16", method)
    assert list(experiment(values).stages)[-1] == "student"


def test_gains_are_paired_and_time_and_memory_relative_to_kd(rows):
    found = {
        ("16", "supervised"): {0: Run(0.6, 0.5, 10.0), 1: Run(0.7, 0.6, 10.0)},
        ("16", "kd"): {0: Run(0.62, 0.5, 20.0), 1: Run(0.76, 0.7, 20.0)},
        ("16", "crd"): {0: Run(0.6, 0.5, 30.0), 1: Run(math.nan, math.nan, math.nan)},
        ("16", "at"): {0: Run(0.65, 0.6, 30.0)},  # the second seed is not finished
        ("32", "kd"): {0: Run(0.9, 0.9, 10.0)},
    }
    memory = {("16", "supervised"): 50.0, ("16", "kd"): 100.0, ("16", "at"): 150.0}
    table = rows(method_zoo.table(found, memory, ARGS, "16"))
    assert table["the student alone"][:2] == ["65.00 ± 7.07", "-"]
    assert table["kd"][:3] == ["69.00 ± 9.90", "+4.00 ± 2.00", "60.00 ± 14.14"]
    assert table["kd"][-2:] == ["20.0 (1.00)", "100.0 (1.00)"]
    assert table["at"] == ["65.00", "+5.00", "60.00", "+10.00", "30.0 (1.50)", "150.0 (1.50)"]
    assert table["crd"] == ["diverged", "-", "diverged", "-", "-", "-"]


def test_a_loss_that_is_not_finite_is_a_result(monkeypatch, tmp_path):
    def fail(*_):
        raise method_zoo.UsageError(text)

    monkeypatch.setattr(method_zoo.tables, "summary", fail)
    text = "Stage 'student': loss became nan at step 7 of 9: lower the rate."
    assert math.isnan(method_zoo._trained({}, tmp_path).test)
    assert (tmp_path / "diverged.txt").read_text() == f"{text}\n"
    text = "loss became nan at step 7 of 9, because the frozen network 'teacher' has NaN."
    assert math.isnan(method_zoo._trained({}, tmp_path).test)  # it is not run again
    with pytest.raises(method_zoo.UsageError, match="frozen network"):
        method_zoo._trained({}, tmp_path / "other")
