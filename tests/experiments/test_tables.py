import pytest

from kd_jax.errors import UsageError


@pytest.fixture(scope="module")
def tables(script):
    return script("tables.py")


def test_mean_and_deviation_of_fractions_are_in_per_cent(tables):
    assert tables.mean_and_deviation([0.5]) == "50.00"
    assert tables.mean_and_deviation([0.1, 0.2, 0.3]) == "20.00 ± 10.00"  # by N - 1


def test_what_cannot_be_read_as_a_config_is_named(tables, tmp_path):
    with pytest.raises(UsageError, match=r"nothing.py cannot be read as a config .*quickstart"):
        tables.load_config(str(tmp_path / "nothing.py"))


def test_one_stage_of_a_chain(tables):
    config = tables.load_config("configs/quickstart.py:smoke")
    values = tables.one_stage(config, "assistant", teacher="/there")
    assert (list(values["stages"]), values["pipeline"]) == (["assistant"], ("assistant",))
    networks = values["stages"]["assistant"]["networks"]
    assert networks["teacher"] == {"init_from": "/there", "frozen": True}
    alone = tables.one_stage(config, "assistant", method={"name": "supervised"})
    assert list(alone["stages"]["assistant"]["networks"]) == ["student"]
    with pytest.raises(UsageError, match="no stage 'assistent': its stages are assistant, stud"):
        tables.one_stage(config, "assistent")
