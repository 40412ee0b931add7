import pytest
import small_faces

from experiments import face_tables
from kd_jax.experiment import tables
from kd_jax.experiment.config_files import load_config


def arguments(**options):
    return face_tables._parser().parse([f"--{name}={value}" for name, value in options.items()])


def result(**metrics):
    return tables.Result("resnet", 16, 0.0, metrics, 1.0, "1 x cpu (cpu)", None)


def test_all_published_rows_are_printed(rows):
    """The last two columns of the papers' tables; HORKD, Tables 2 and 3, EKD, Table VI."""
    args = arguments(path="faces", uccs="uccs")
    text = face_tables.text(["2", "3", "6"], {}, args)
    table = rows(text)
    published = {"2": 15, "3": 3, "6": 10}
    assert {name: len(x.rows) for name, x in face_tables.TABLES.items()} == published
    assert table["ArcFace"] == ["37.8M", "2019", "88.73", "-"]
    assert table["OUR-16-R (HORKD)"] == ["16x16", "7.8M", "-", "90.03", "-"]
    assert table["VLRR"] == ["-", "2016", "59.03", "-"]
    assert "58.65 and 22.71" in text
    assert "CosFace has 91.83 here" in text
    assert text.count("77.81") == 2


def test_errors_are_one_minus_the_measured_accuracies(rows):
    measured = result(**{"accuracy": 0.7, "test/top_5": 0.9})
    text = face_tables.text(["3"], {"horkd_16_uccs": measured}, arguments(path="f", uccs="u"))
    assert rows(text)["Our-16-R (HORKD)"] == ["16x16", "22.19", "30.00", "10.23", "10.00"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Returns options for small images and networks."""
    small_faces.write(tmp_path / "faces", scale=4)

    def load(reference):
        name, _, argument = reference.partition(":")
        words = ["smoke", "student=narrow", "teacher=narrow", argument]
        config = load_config(f"{name}:{argument if name == 'uccs' else ','.join(words)}")
        config.data.source.size = None
        config.data.update(batch_size=8, eval_batch_size=8, stream=False)
        config.data.update(train_split="train", test_split="test")
        for stage in config.stages.values():
            for network in stage.networks.values():
                if network.get("resolution"):
                    network.resolution = min(network.resolution, 28)
        return config

    monkeypatch.setattr(face_tables, "load_config", load)
    faces, pairs = tmp_path / "faces", tmp_path / "faces" / "pairs.txt"
    return [
        *(f"--workdir={tmp_path}", f"--path={faces}", f"--uccs={faces}", f"--images={faces}"),
        *(f"--pairs={pairs}", f"--threshold_pairs={pairs}", "--identities=6", "--uccs_epochs=1"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_smoke_run_resumes_and_the_table_holds_its_numbers(
    small, tmp_path, capsys, monkeypatch, rows, no_training
):
    others = [row for row in face_tables.TABLES["2"].rows if row.cell != "horkd_32"]
    shorter = face_tables.TABLES["2"]._replace(rows=tuple(others))
    monkeypatch.setitem(face_tables.TABLES, "2", shorter)
    options = [*small, "--tables=2,3"]
    assert face_tables.main(options) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text().strip() == printed.strip()
    table = rows(printed)
    for name in ("VGGFace2 (teacher)", "OUR-16-R (HORKD)"):
        assert 0 <= float(table[name][-1]) <= 100
    top_1, top_5 = (float(table["Our-16-R (HORKD)"][i]) for i in (2, 4))
    assert 0 <= top_5 <= top_1 <= 100
    no_training()
    assert face_tables.main(options) == 0
    assert capsys.readouterr().out == printed


def test_the_student_is_finetuned_with_a_new_classifier():
    args = arguments(path="faces", uccs="uccs", identities=158, min_images=10, seed=3)
    config = face_tables._config(face_tables.CELLS["horkd_16_uccs"], args)
    source = config["data"]["source"]
    assert (source["path"], source["identities"], source["min_images"]) == ("uccs", 158, 10)
    assert source["seed"] == config["seed"] == 3
