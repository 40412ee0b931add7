from kd_jax.core.text import markdown


def test_a_table_is_aligned():
    text = markdown(("cell", "%"), [("a", "70.10"), ("longer", "-")])
    assert text.splitlines() == [
        "| cell   |     % |",
        "| ------ | ----: |",
        "| a      | 70.10 |",
        "| longer |     - |",
    ]


def test_several_first_columns_can_be_words_and_rows_can_be_absent():
    rows = iter([("a", "b", "1")])
    assert markdown(("x", "y", "z"), rows, left=2).splitlines() == [
        "| x   | y   |   z |",
        "| --- | --- | --: |",
        "| a   | b   |   1 |",
    ]
    assert markdown(("x",), ()).splitlines() == ["| x   |", "| --- |"]
