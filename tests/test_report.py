from kd_jax.report import markdown, table

STAGE = {
    "name": "teacher",
    "network": "resnet14",
    "resolution": 8,
    "params": 174970,
    "last": {"accuracy": 0.98765, "epoch": 30.0},
    "best": {"accuracy": 0.99, "epoch": 20.0},
    "seconds": 12.4,
}


def test_the_table_is_markdown_of_last_and_best():
    student = {**STAGE, "name": "student_alone", "last": {"accuracy": 0.5, "epoch": 2.5}}
    lines = table({"stages": [STAGE, student]}).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["teacher", "resnet14", "8", "174,970", "98.77%", "99.00%", "30", "12"]
    assert "50.00%" in lines[3]


def test_a_table_is_aligned():
    text = markdown(("cell", "%"), [("a", "70.10"), ("longer", "-")])
    assert text.splitlines() == [
        "| cell   |     % |",
        "| ------ | ----: |",
        "| a      | 70.10 |",
        "| longer |     - |",
    ]
