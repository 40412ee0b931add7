"""Ranks of mates, compared with sorted float64 scores."""

import numpy as np
import pytest

from kd_jax.core.devices import data_mesh
from kd_jax.evaluation import mate_ranks as module
from kd_jax.evaluation._embeddings import as_directions
from kd_jax.evaluation.mate_ranks import LabeledSet, mate_ranks


def labeled(rows, classes):
    return LabeledSet(as_directions(rows, "rows", allow_equal=True), np.asarray(classes))


def expected(queries, gallery, own):
    """Ranks of all mates, by lists: others of equal score first."""
    ranks = []
    for i, label in enumerate(queries.classes):
        scores = gallery.directions.unit() @ queries.directions.unit()[i]
        mates = [j for j in np.flatnonzero(gallery.classes == label) if own is None or j != own[i]]
        others = scores[gallery.classes != label]
        mates = sorted(scores[mates], reverse=True)
        ranks.append([1 + n + np.sum(others >= score - 1e-12) for n, score in enumerate(mates)])
    return ranks


@pytest.mark.parametrize(("devices", "block_size"), [(1, None), (8, 64)])
@pytest.mark.parametrize("same", [True, False])
def test_all_mates_with_ties(devices, block_size, same):
    rng = np.random.default_rng(0)
    classes = rng.permuted(np.repeat(np.arange(9), rng.integers(2, 9, 9)))
    rows = np.round(rng.normal(size=(len(classes), 4)) + rng.normal(size=(9, 4))[classes])
    rows[np.all(rows == 0, axis=1)] = 1
    gallery = labeled(rows.astype(np.float32), classes)
    own = np.arange(len(classes)) if same else None
    queries = gallery if same else labeled(rng.normal(size=(20, 4)), rng.integers(0, 9, 20))
    lists = expected(queries, gallery, own)
    most = np.array([len(ranks) for ranks in lists])
    found = mate_ranks(
        queries,
        gallery,
        own=own,
        exact_to=np.full(len(queries), len(gallery)),
        mesh=data_mesh(devices),
        block_size=block_size,
    )
    assert found.shape == (len(queries), most.max())
    for ranks, row in zip(lists, found, strict=True):
        assert row.tolist() == [*ranks, *[len(gallery) + 1] * (most.max() - len(ranks))]
    first = mate_ranks(queries, gallery, own=own, ks=range(99), mesh=data_mesh(devices))
    np.testing.assert_array_equal(first, found[:, :1])


def test_scores_that_float32_cannot_order_are_ordered_by_float64(monkeypatch):
    """The mate is nearer by 1e-9, or as near as 1e-13, or farther."""
    distances = np.array([0.5, 0.5 + 1e-9, 0.5, 0.5 + 1e-13, 0.5 + 1e-9, 0.5])
    rows = np.stack([np.cos(distances), np.sin(distances), np.zeros(6)], axis=1)
    gallery = labeled(rows, [0, 1, 0, 1, 0, 1])
    queries = labeled([[1.0, 0, 0]] * 2, [0, 0])
    counted = []
    exact = module._exact_counts
    monkeypatch.setattr(
        module, "_exact_counts", lambda *args: counted.append(len(args[1])) or exact(*args)
    )
    for pair, rank in (((0, 1), 1), ((2, 3), 2), ((4, 5), 2)):
        known = LabeledSet(gallery.directions.keep(np.array(pair)), gallery.classes[list(pair)])
        assert mate_ranks(queries, known, ks=[1]).tolist() == [[rank]] * 2
    assert counted == [2, 2, 2]


def test_float64_is_not_needed_where_it_cannot_change_a_result(monkeypatch):
    monkeypatch.setattr(module, "_exact_counts", None)
    a, b, c = np.eye(3)
    gallery = labeled([a, a + b, a + b, c], [1, 0, 1, 1])  # the mate is second or third
    queries = labeled([a], [0])
    assert mate_ranks(queries, gallery, ks=[1, 3]).tolist() == [[3]]
    with pytest.raises(TypeError):
        mate_ranks(queries, gallery, ks=[2])
