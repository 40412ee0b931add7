"""Comparison of finished runs, from files that tests write."""

import copy
import json

import pytest

from kd_jax.core.errors import UsageError
from kd_jax.experiment import compare


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory):
    """Folder of runs: two seeds of `kd`, two of `alone`, whose accuracies are known."""
    folder = tmp_path_factory.mktemp("runs")
    workdir, summary = finished
    for name, seed, accuracy in (
        ("kd", 0, 0.80),
        ("kd", 1, 0.90),
        ("alone", 0, 0.78),
        ("alone", 1, 0.88),
    ):
        values = copy.deepcopy(summary)
        values["seed"] = values["config"]["seed"] = seed
        values["config"]["stages"]["student"]["epochs"] = 2.0 if name == "kd" else 3.0
        values["stages"][1]["last"]["accuracy"] = accuracy
        place = folder / f"{name}_{seed}"
        place.mkdir()
        (place / "results.json").write_text(json.dumps(values))
        for stage in ("teacher", "student"):
            (place / stage).mkdir()
            log = (workdir / stage / "metrics.jsonl").read_text()
            (place / stage / "metrics.jsonl").write_text(log)
    return folder


def test_seeds_of_one_config_are_one_group(runs):
    groups = compare.grouped(compare.read_runs([runs]))
    assert [(group.name, list(group.runs)) for group in groups] == [
        ("alone_0 and 1 more", [0, 1]),
        ("kd_0 and 1 more", [0, 1]),
    ]
    base, kd = groups
    assert [*compare.config_changes(base, kd)] == [("stages.student.epochs", "3.0", "2.0")]


def test_common_seeds_are_paired(runs):
    base, kd = compare.grouped(compare.read_runs([runs]))
    found = compare.difference(kd, base, "student")
    assert found.value == pytest.approx(0.02)
    assert found.margin == pytest.approx(0.0, abs=1e-9)  # both seeds gain two points
    assert found.source == "2 seeds, paired"
    table = compare.rows([base, kd], base)
    assert [row[6] for row in table if row[0] == "student"] == ["83.00 ± 7.07", "85.00 ± 7.07"]


def test_single_runs_have_the_noise_of_their_images(runs):
    base, kd = compare.grouped(compare.read_runs([runs / "alone_0", runs / "kd_0"]))
    found = compare.difference(kd, base, "student")
    assert found.source == "50 test images, without that of seeds"
    assert found.within_noise
    # 1.96 sqrt(p (1 - p) / 50 + q (1 - q) / 50) with p = 41 / 52 and q = 40 / 52
    assert found.margin == pytest.approx(0.16265, abs=1e-5)


def test_the_page_has_a_chart_of_results_and_of_losses_per_stage(runs):
    from kd_jax.experiment.report_html.compare_page import compare_page

    groups = compare.grouped(compare.read_runs([runs]))
    page = compare_page(groups, groups[0])
    assert page.count("<svg") == 4
    assert "stages.student.epochs" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_another_metric(runs):
    first, *_ = compare.read_runs([runs], "cross_entropy")
    assert {stage["result"] for stage in first.stages.values()} == {"cross_entropy"}
    with pytest.raises(UsageError, match="--metric = 'acuracy' is unknown"):
        compare.read_runs([runs], "acuracy")


@pytest.mark.parametrize("text", ["{", "[]", '{"config": {}, "seed": 0, "stages": [{}]}'])
def test_damaged_results_are_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UsageError, match=r"results.json is damaged \(.*\): restore it"):
        compare.read_runs([tmp_path])


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"has no results\.json: name the folder of a run"):
        compare.read_runs([tmp_path])
