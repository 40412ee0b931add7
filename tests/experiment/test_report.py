"""The report of a run: its table and its files."""

import json

import pytest
from etils import epath

from kd_jax.experiment.report import heading, meaning, table, write

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
        "device": device,
        "stages": stages,
    }
    write(summary, epath.Path(tmp_path))
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# small\n")
    assert says in report
    assert "Seed 3, 2 x TPU v4 (tpu), jax 1.0.\nLower resolutions by the filter box.\n" in report
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
