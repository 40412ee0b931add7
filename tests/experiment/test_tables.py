import pytest
import small_config

from kd_jax.core.errors import UsageError
from kd_jax.experiment import tables


def test_a_gain_is_paired_and_has_a_standard_error():
    assert tables.gain([0.5], [0.4]) == "+10.00"
    assert tables.gain([0.52, 0.76], [0.5, 0.7]) == "+4.00 ± 2.00"
    assert tables.mean_and_std([0.1, 0.2, 0.3]) == "20.00 ± 10.00"


def test_one_stage_of_a_chain():
    config = small_config.get_config()
    values = tables.one_stage(config, "student", teacher="/folder")
    assert (list(values["stages"]), values["pipeline"]) == (["student"], ("student",))
    networks = values["stages"]["student"]["networks"]
    assert networks["teacher"] == {"init_from": "/folder"}
    alone = tables.one_stage(config, "student", method={"name": "supervised"})
    assert list(alone["stages"]["student"]["networks"]) == ["student"]
    assert config.stages.student.networks.teacher.init_from == "teacher"  # not changed
    with pytest.raises(UsageError, match="stage = 'studen' is unknown: choose one of student"):
        tables.one_stage(config, "studen")


def test_a_finished_run_is_read_without_its_images(finished, monkeypatch, tmp_path):
    workdir, results = finished
    monkeypatch.setattr("kd_jax.experiment.run.Run", None)
    assert tables.summary(small_config.get_config().to_dict(), workdir) == results
    changed = small_config.changed({"seed": 1})
    with pytest.raises(TypeError):  # another config would be run
        tables.summary(changed, workdir)


@pytest.mark.parametrize(
    ("text", "says"),
    [("a,d", "--cells = 'd' is unknown: choose one of a, b"), ("", "--cells is empty")],
)
def test_unknown_names_are_refused(text, says):
    assert tables.names("b,a", "ab", "--cells") == ["b", "a"]
    with pytest.raises(UsageError, match=says):
        tables.names(text, "ab", "--cells")


def test_seeds_are_whole_numbers():
    assert tables.seeds("0,12") == [0, 12]
    with pytest.raises(UsageError, match="--seeds=0,a must be whole numbers"):
        tables.seeds("0,a")
