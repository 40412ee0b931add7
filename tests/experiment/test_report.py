"""The report of a run: its table and its files."""

import json
import math
import re

import numpy as np
import pytest
from etils import epath

from kd_jax.core.errors import UsageError
from kd_jax.experiment.report import differences, explanation, heading, meaning, table, write
from kd_jax.experiment.report import storage as storage_of
from kd_jax.experiment.report_html.chart import Series, chart, matrix
from kd_jax.experiment.stored import confusion

STAGE = {
    "name": "teacher",
    "network": "resnet14",
    "resolution": 8,
    "params": 174970,
    "metric": "accuracy",
    "last": {"accuracy": 0.98765, "epoch": 30.0},
    "best": {"accuracy": 0.99, "epoch": 20.0},
    "seconds": 12.4,
}
STUDENT = {**STAGE, "name": "student_alone", "last": {"accuracy": 0.5, "epoch": 2.5}}


def test_the_table_is_markdown_of_last_and_best():
    lines = table({"stages": [STAGE, STUDENT]}).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["teacher", "resnet14", "8", "174,970", "98.77%", "99.00%", "30", "12"]
    assert "50.00%" in lines[3]


def test_every_further_output_of_a_stage_has_a_row():
    found = {"accuracy/teacher": 0.1, "accuracy/branch2": 0.25, "accuracy/ensemble": 0.75}
    online = {key: {**STAGE[key], **found} for key in ("last", "best")}
    online["predictions"] = ["student", "branch2", "ensemble"]
    lines = table({"stages": [STAGE | online, STUDENT]}).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in rows[1:3]] == ["teacher: branch2", "teacher: ensemble"]
    assert rows[2][1:] == ["", "", "", "75.00%", "75.00%", "", ""]
    assert len(rows) == 4


def test_metrics_of_further_evaluators_are_below_the_table():
    last = {**STAGE["last"], "accuracy/teacher": 0.5, "shelf/recall_at_1": 0.25}
    lines = table({"stages": [{**STAGE, "last": last}]}).splitlines()
    assert lines[-1] == "teacher: shelf/recall_at_1 0.25"
    assert len(lines) == 5


def test_the_column_of_the_results_has_the_name_of_their_metric():
    faces = {"result": "pairs/accuracy", "last": {"pairs/accuracy": 0.75, "epoch": 1.0}}
    faces = {**STAGE, **faces, "name": "student", "best": {"pairs/accuracy": 0.8}}
    header, _, row, *further = table({"stages": [faces]}).splitlines()
    assert "| pairs/accuracy |" in header
    assert "75.00%" in row
    assert not further
    assert heading([faces]) == "pairs/accuracy"
    assert heading([STAGE, faces]) == "result"
    assert meaning([STAGE, STUDENT]) == " on the test images"
    assert meaning([STAGE, faces]) == ", accuracy of teacher, pairs/accuracy of student"


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (("accuracy",), "the highest accuracy, chosen on the same images."),
        (("accuracy", "validation/accuracy"), "or highest validation/accuracy, chosen on the same"),
        (("validation/accuracy",), "the highest validation/accuracy.\n"),
        (("-cross_entropy",), "the lowest cross_entropy, chosen on the same images."),
        (("-accuracy_gap/teacher",), "the lowest accuracy_gap/teacher, chosen on the same images."),
        (("lfw/accuracy",), "the highest lfw/accuracy.\n"),
    ],
)
def test_the_report_says_how_the_best_was_chosen(tmp_path, metrics, says):
    stages = [{**STAGE, "name": str(i), "metric": metric} for i, metric in enumerate(metrics)]
    for stage in stages:
        (tmp_path / stage["name"]).mkdir()
        entry = {"step": 5, "epoch": 1.0, "accuracy": 0.5, "train": {"loss": 0.0}}
        (tmp_path / stage["name"] / "metrics.jsonl").write_text(json.dumps(entry) + "\n")
    device = {"count": 2, "kind": "TPU v4", "platform": "tpu"}
    summary = {
        "experiment": "small",
        "seed": 3,
        "filter": "box",
        "versions": {"jax": "1.0"},
        "config": {},
        "device": device,
        "stages": stages,
    }
    write(summary, epath.Path(tmp_path))
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# small\n")
    assert says in report
    assert "Seed 3, 2 x TPU v4 (tpu), jax 1.0.\nLower resolutions by the filter box.\n" in report
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_size_that_is_no_square_is_shown_whole():
    faces = {**STAGE, "resolution": 112, "size": [112, 96]}
    assert " 112x96 |" in table({"stages": [faces]})
    assert "|          8 |" in table({"stages": [{**STAGE, "size": [8, 8]}]})


def test_differences_of_like_networks_say_whether_they_are_noise():
    stages = [
        {**STAGE, "name": name, "images": {"test": 400}, "last": {"accuracy": accuracy, "epoch": 1}}
        for name, accuracy in (("alone", 0.70), ("kd", 0.72), ("best", 0.95))
    ]
    lines = differences({"stages": stages})
    assert lines[0].startswith("kd - alone: +2.00 ± 6.2")
    assert lines[0].endswith("(within the noise of 400 test images, without that of seeds)")
    assert "best - alone: +25.00" in lines[1]
    assert "beyond the noise" in lines[1]


def test_test_accuracy_of_face_stages_is_explained():
    values = {"accuracy": 0.9, "lfw/accuracy": 0.7, "epoch": 1.0}
    faces = {**STAGE, "last": values}
    assert "classification: the fraction of the test images" in explanation({"stages": [faces]})
    assert "classification" not in explanation({"stages": [STAGE]})


def test_options_that_change_what_is_stored_are_named():
    config = {"stages": {"teacher": {"ema_decay": 0.999, "accumulate": 2}}, "data": {}}
    lines = storage_of({"stages": [STAGE], "config": config})
    assert any("moving averages" in line and "ema_decay 0.999" in line for line in lines)
    assert any("2 parts" in line for line in lines)
    assert not storage_of({"stages": [STUDENT], "config": config})


# ------------------------------------------------------------------------------- report.html


def test_the_page_of_a_run_is_whole_without_a_network(finished):
    workdir, summary = finished
    page = (workdir / "report.html").read_text()
    without_names = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|<script|<link", without_names)
    for title in ("Results", "Curves", "Images that the networks see", "Confusion matrices"):
        assert f"<h2>{title}</h2>" in page
    last = summary["stages"][1]["last"]["accuracy"]
    assert f"{100 * last:.2f} ±" in page
    assert page.count("<svg") == 1 + 2 + 2  # results, two losses, two matrices
    # The stored images, the views of the teacher, and the smaller ones of the student.
    assert page.count('<div class="pictures">') == 3
    assert page.count("data:image/png") == 3 * 8 + 2
    assert "data.augmentation.crop_padding" in page


def test_a_stage_keeps_its_confusion_matrix(finished):
    workdir, summary = finished
    for stage in summary["stages"]:
        counts = json.loads((workdir / stage["name"] / "confusion.json").read_text())["counts"]
        counts = np.array(counts)
        assert counts.shape == (10, 10)
        assert counts.sum() == stage["images"]["test"] == 50
        assert np.trace(counts) / 50 == pytest.approx(stage["last"]["accuracy"])


@pytest.mark.parametrize("text", ["{", "{}", '{"counts": [[1, 2]]}', '{"counts": [[1.5]]}'])
def test_a_damaged_confusion_matrix_is_named(tmp_path, text):
    (tmp_path / "confusion.json").write_text(text)
    with pytest.raises(
        UsageError, match=r"confusion\.json is damaged \(.*\): restore it, or delete"
    ):
        confusion(epath.Path(tmp_path))


def test_a_chart_leaves_nan_out_and_keeps_every_point_inside():
    curves = [Series("a <b>", [1, 2, 3], [1e-3, math.nan, 50.0]), Series("b", [1], [2.0], [0.5])]
    svg = chart("title", "epoch", "loss", curves, log=True)
    assert "nan" not in svg
    assert "a &lt;b&gt;" in svg
    points = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert len(points) == 3
    assert all(62 <= float(x) <= 466 and 30 <= float(y) <= 254 for x, y in points)


@pytest.mark.parametrize("classes", [2, 100])
def test_a_matrix_has_its_numbers_where_they_can_be_read(classes):
    svg = matrix("title", np.eye(classes, dtype=int) * 5)
    assert svg.count(">100</text>") == (2 if classes == 2 else 0)
