"""Gradient norms of the terms of a loss."""

import json

import numpy as np
import pytest
import small_config

import kd_jax
from experiments import gradient_norms
from kd_jax.methods import HORKD

CONFIG = small_config.__file__


@pytest.mark.long
def test_terms_and_whole_loss_of_a_stage(tmp_path, capsys):
    run = tmp_path / "run"
    kd_jax.run(small_config.get_config(), run, stages=("teacher",))
    command = [f"--workdir={tmp_path}", f"--config={CONFIG}", "--stage=student", f"--run={run}"]
    assert gradient_norms.main([*command, "--every=2", "--steps=3"]) == 0
    assert "| center" in capsys.readouterr().out
    measured = json.loads((tmp_path / "norms.json").read_text())
    assert [entry["step"] for entry in measured] == [0, 2]
    names = {"hard", "feature", "pair", "center", gradient_norms.TOTAL}
    for entry in measured:
        assert set(entry["norm"]) == names
        # The gradient of the sum is the sum of the gradients: their projections add up.
        parts = sum(entry["norm"][n] * entry["cosine"][n] for n in names - {gradient_norms.TOTAL})
        assert parts == pytest.approx(entry["norm"][gradient_norms.TOTAL], 1e-3)
    assert (tmp_path / "norms.png").read_bytes().startswith(b"\x89PNG")


def test_a_weight_of_zero_is_no_term():
    terms = gradient_norms.single_terms(HORKD(feature_weight=0.0))
    assert set(terms) == {"hard", "pair", "triplet", "center"}
    assert terms["pair"] == HORKD(
        hard_weight=0.0, feature_weight=0.0, triplet_weight=0.0, center_weight=0.0
    )
    assert np.isclose(terms["pair"].pair_weight, 0.02)
