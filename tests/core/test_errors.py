import pytest

from kd_jax.core.errors import UsageError, check_choice, choices, reason


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


def test_reasons_are_one_short_line():
    assert reason(ValueError("a\nb\tc")) == "a b c"
    assert len(reason(ValueError("x" * 999))) == 304
    assert reason(FileNotFoundError(2, "No such file", "x.png")) == "No such file"
    assert reason(EOFError()) == "EOFError"
    assert reason(MemoryError()) == "it is too large for the memory"
