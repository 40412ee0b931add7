"""Garbage in the JSON files of a run: the right result, or one line that names the file."""

import itertools
import json
import os
import pathlib
import shutil

import pytest
import small_config

import kd_jax
from kd_jax.commands import main
from kd_jax.experiment.run import Run

pytestmark = pytest.mark.long
CONFIG = f"--config={pathlib.Path(small_config.__file__)}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder and results of a run of two stages."""
    with small_config.compiled_once(tmp_path_factory.mktemp("programs")):
        workdir = tmp_path_factory.mktemp("finished") / "run"
        yield workdir, kd_jax.run(small_config.get_config(), workdir)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the run."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def values_of(content):
    """Yields objects in JSON with one value that is missing, or of another type."""
    for key, kind in zip(content, itertools.cycle((None, [], "1", {}, -1e400, True)), strict=False):
        other = 1.5 if isinstance(content[key], type(kind)) else kind
        yield json.dumps({**content, key: other})
        yield json.dumps({name: value for name, value in content.items() if name != key})
    for key in ("last", "best", "stages", "config", "train"):
        if key in content:
            yield json.dumps({**content, key: [content[key]]})
            if isinstance(content[key], dict):
                for name in content[key]:
                    yield json.dumps({**content, key: {**content[key], name: str(content[key])}})


def garbage(path):
    """Yields functions that replace a file."""
    data = path.read_bytes()
    lines = data.count(b"\n") > 1 and path.suffix == ".jsonl"
    texts = [b"", b"[]", b"null", b"{}", b"1", b'"text"', b"NaN", b"\xff\xfe\0", b"[" * 10**5]
    texts += [data[: len(data) // 2], data + b"}", b"9" * 5000, b'{"a": 1e400}', b"[[]]", b"\n\n"]
    content = json.loads(data.splitlines()[0] if lines else data)
    texts += [text.encode() for text in values_of(content)]
    for text in texts:
        yield lambda text=text: path.write_bytes(text)
    yield path.unlink
    yield lambda: (path.unlink(), os.mkfifo(path))
    yield lambda: (path.unlink(), path.mkdir())
    yield lambda: (path.unlink(), path.symlink_to(path))


def results(workdir):
    """Returns the results without times and paths."""
    return small_config.numbers(json.loads((workdir / "results.json").read_text()))


def replace(path, original):
    """Puts a file back, whatever is in its place."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    shutil.copy(original, path)


FILES = ("config.json", "results.json", "teacher/stage.json", "student/metrics.jsonl")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("sweep", [False, True])
def test_train_again(finished, copied, capsys, monkeypatch, file, sweep):
    """Damage never counts as an unfinished stage. The plan is made once, and nothing is plotted."""
    options, workdir = [f"--workdir={copied}"], copied
    if sweep:
        workdir = copied.parent / "sweep" / "seed0"
        workdir.parent.mkdir()
        copied.rename(workdir)
        options = [f"--workdir={workdir.parent}", "--seeds=0"]
    plan = Run(small_config.get_config(), workdir).plan
    monkeypatch.setattr("kd_jax.experiment.run.Plan", lambda *_: plan)
    monkeypatch.setattr("kd_jax.experiment.run.StageRun.run", lambda *_: pytest.fail("trains"))
    monkeypatch.setattr("kd_jax.experiment.report._plot", lambda *_: None)
    codes = set()
    for damage in itertools.islice(garbage(workdir / file), 0, None, 5 if sweep else 1):
        damage()
        if os.path.exists(workdir / file) or not file.endswith("stage.json"):  # else: not finished
            codes.add(code := main(["train", CONFIG, *options]))
            error = capsys.readouterr().err
            if code == 0:
                assert results(workdir) == small_config.numbers(finished[1])
            else:
                assert code == 2
                assert error.startswith("error: ")
                assert error.count("\n") == 1
                assert file in error or str(workdir) in error
            assert not [*workdir.rglob("*.tmp")]
        replace(workdir / file, finished[0] / file)
    assert codes <= {0, 2}


@pytest.mark.parametrize("name", ["sweep.json", "sweep.md"])
def test_the_table_of_a_sweep_is_written_again(finished, copied, capsys, monkeypatch, name):
    plan = Run(small_config.get_config(), copied).plan
    monkeypatch.setattr("kd_jax.experiment.run.Plan", lambda *_: plan)
    command = ["train", CONFIG, f"--workdir={copied.parent}", "--seeds=0"]
    copied.rename(copied.parent / "seed0")
    assert main(command) == 0
    path = copied.parent / name
    content = path.read_text()
    for damage in (lambda: path.write_text("{"), path.unlink, lambda: os.mkfifo(path)):
        path.unlink(missing_ok=True)
        path.write_text("")
        if damage.__name__ != "unlink":
            path.unlink()
        damage()
        assert main(command) == 0
        assert path.read_text() == content
    path.unlink()
    path.mkdir()
    capsys.readouterr()
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"error: {path} cannot be written (")


@pytest.mark.parametrize("command", ["embed", "evaluate"])
def test_a_network_of_a_damaged_stage(copied, capsys, command):
    path = copied / "teacher" / "stage.json"
    data = path.read_bytes()
    options = [f"--network={copied / 'teacher'}", "--source=digits", "--split=test[:20]"]
    out = copied.parent / "out"
    for text in (
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        data[:100],
        b'{"last": {"step": "20"}}',
        None,
    ):
        if text is None:
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(text)
        assert main([command, *options, f"--out={out}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --network = ")
        assert error.count("\n") == 1
        assert not out.exists()


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"step": "5"}\n', "null\n", "\xff\n"])
def test_a_damaged_log_of_an_unfinished_stage(copied, capsys, text):
    """An empty log is that of a stage that was not evaluated."""
    (copied / "student" / "stage.json").unlink()
    (copied / "results.json").unlink()
    path = copied / "student" / "metrics.jsonl"
    path.write_text(text, encoding="latin-1")
    code = main(["train", CONFIG, f"--workdir={copied}"])
    error = capsys.readouterr().err
    assert code == (2 if text else 0)
    if text:
        assert error.splitlines()[-1].startswith(f"error: {path} is damaged (")
        assert "only the plotted curves need it" in error
