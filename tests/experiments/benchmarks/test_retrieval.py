"""The benchmark of retrieval runs and prints positive numbers; the times are not tested."""

import json
import sys
import types

import numpy as np
import pytest

from experiments.benchmarks import retrieval
from kd_jax.evaluation import recall_at_k


def test_both_libraries_measure_the_same_task(capsys):
    assert retrieval.main(["--only=kd_jax", "--sizes", "400", "--dim=8", "--queries=300"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["queries"] == 300
    assert found["memory"] >= 0
    rows, labels = retrieval.images(400, 8)
    queries = np.arange(300)
    recall = retrieval.by_kd_jax(rows, labels, queries, [1, 2])
    assert found["recall_at_1"] == recall
    whole = recall_at_k(rows, labels, ks=[1])["recall_at_1"]
    assert retrieval.by_kd_jax(rows, labels, np.arange(400), [1]) == whole


def test_faiss_finds_the_same(monkeypatch):
    """faiss is optional, so that a class with its exact search replaces it."""

    class IndexFlatIP:
        def __init__(self, dim):
            self.dim = dim

        def add(self, units):
            self.units = units

        def search(self, queries, k):
            scores = queries @ self.units.T
            order = np.argsort(-scores, axis=1)[:, :k]
            return np.take_along_axis(scores, order, 1), order

    fake = types.SimpleNamespace(IndexFlatIP=IndexFlatIP)
    monkeypatch.setitem(sys.modules, "faiss", fake)
    rows, labels = retrieval.images(400, 8)
    queries = np.arange(300)
    expected = retrieval.by_kd_jax(rows, labels, queries, [1])
    assert retrieval.by_faiss(rows, labels, queries, [1, 2]) == expected


def test_the_table(monkeypatch, capsys, rows):
    found = {"queries": 100, "set_up": 0.5, "seconds": 2.0, "threads": 4.0, "memory": 2**21}
    monkeypatch.setattr(retrieval, "_in_process", lambda *_: {**found, "recall_at_1": 0.25})
    assert retrieval.main(["--sizes", "1000", "--queries=100"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["1,000"][:1] == ["100"]
    assert table["1,000"][2:] == ["0.50", "2.00", "4.00", "4000.00", "2", "25.00"]


@pytest.mark.parametrize("options", [["--sizes", "99"], ["--ks", "0"], ["--queries=10"]])
def test_impossible_options_are_one_sentence(options, capsys):
    assert retrieval.main(options) == 2
    assert "must be 100 or more" in capsys.readouterr().err
