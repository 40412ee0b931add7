import numpy as np
import pytest

from kd_jax.training.loop import Progress


def test_means_are_over_the_steps_however_they_came():
    one, many = Progress(), Progress()
    values = np.random.default_rng(0).normal(size=7).astype(np.float32)
    one.add({"loss": values})
    for value in values:
        many.add({"loss": value[None]})
    assert one.count == many.count == 7
    np.testing.assert_allclose(one.take_means()["loss"], values.mean(dtype=np.float64))
    np.testing.assert_allclose(many.take_means()["loss"], values.mean(dtype=np.float64))
    assert one.sums == {}
    assert one.count == 0


@pytest.mark.parametrize("accuracies", [(0.1, 0.5, 0.5, 0.2), (0.5, 0.4)])
def test_the_best_is_the_latest_of_equals(accuracies):
    progress = Progress()
    for step, accuracy in enumerate(accuracies, 1):
        progress.record(step, {"accuracy": accuracy, "step": step})
    assert progress.best["step"] == max(i for i, a in enumerate(accuracies, 1) if a == 0.5)
    assert progress.last["step"] == progress.evaluated == len(accuracies)
