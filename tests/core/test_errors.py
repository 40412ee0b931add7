import pytest

from kd_jax.core.errors import UsageError, check_choice, choices


def test_choices_are_sorted_with_similar_words_first():
    assert choices("colour", ["width", "color", "size"]) == "color, size, width"
    assert choices(3, ["b", "a"]) == "a, b"
    assert choices("x", []) == "none"


def test_a_known_word_is_returned_and_an_unknown_one_names_its_key():
    assert check_choice("sum", ("mean", "sum"), "reduction") == "sum"
    known = (word for word in ("mean", "sum"))
    with pytest.raises(UsageError, match=r"reduction = 'men' is unknown: choose one of mean, sum"):
        check_choice("men", known, "reduction")
    assert issubclass(UsageError, ValueError)
