import os
import sys

import pytest

from kd_jax.core import user_code
from kd_jax.core.errors import UsageError

COUNT = "import os\nos.environ['USER_CODE'] = os.environ.get('USER_CODE', '') + 'x'\n"


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Removes the modules that a test imports."""
    monkeypatch.setenv("USER_CODE", "")
    monkeypatch.setattr(user_code, "_imported", set())
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, name="my_code.py", text=COUNT):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_file_is_imported_once(tmp_path, monkeypatch):
    path = write(tmp_path)
    user_code.import_all([path, path])
    monkeypatch.chdir(tmp_path)
    user_code.import_all(["my_code.py"])  # the same file, by another path
    assert os.environ["USER_CODE"] == "x"
    assert sys.modules["my_code"].__file__ == path


def test_a_file_that_was_imported_by_its_name_is_not_run_again(tmp_path, monkeypatch):
    path = write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    __import__("my_code")
    user_code.import_all([path])
    assert os.environ["USER_CODE"] == "x"


def test_a_module_is_found_in_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = list(sys.path)
    user_code.import_all(["my_code", "my_code"])
    assert os.environ["USER_CODE"] == "x"
    assert sys.path == before


def test_the_reference_is_known_during_the_import_only(tmp_path):
    text = "from kd_jax.core import user_code\nSEEN = user_code.current()\n"
    path = write(tmp_path, text=text)
    assert user_code.current() is None
    user_code.import_all([path])
    assert path == sys.modules["my_code"].SEEN
    assert user_code.current() is None


def test_files_of_equal_names_do_not_hide_each_other(tmp_path):
    (tmp_path / "other").mkdir()
    paths = [write(tmp_path), write(tmp_path / "other"), write(tmp_path, "json.py")]
    user_code.import_all(paths)
    assert os.environ["USER_CODE"] == "xxx"
    files = [getattr(module, "__file__", None) for module in sys.modules.values()]
    assert set(paths) <= set(files)


def test_references_to_files_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert user_code.absolute("mine.py") == str(tmp_path / "mine.py")
    assert user_code.absolute("~/mine.py") == os.path.expanduser("~/mine.py")
    assert user_code.absolute("package.mine") == "package.mine"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 / 0\n", r"cannot be imported \(ZeroDivisionError: division by zero\): name a Python"),
        ("def\n", r"cannot be imported \(SyntaxError: "),
        ("assert False\n", r"cannot be imported \(AssertionError in line 1 of my_code\.py\): name"),
        ("raise ValueError('one\\n  two')\n", r"cannot be imported \(ValueError: one two\): name"),
        ("import sys; sys.exit()\n", r"cannot be imported \(SystemExit in line 1 of my_code\.py\)"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_an_import_that_fails_is_one_sentence_each_time(tmp_path, text, says):
    path = write(tmp_path, text=text)
    for _ in range(2):  # a half-imported module must not look like an imported one
        with pytest.raises(UsageError, match=says) as error:
            user_code.import_all([path])
        assert "\n" not in str(error.value)
        assert user_code.current() is None
    write(tmp_path)
    user_code.import_all([path])
    assert os.environ["USER_CODE"] == "x"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("missing.py", r"missing\.py is not a file: name a Python file or a module\."),
        ("folder/missing", "missing is not a file"),
        ("no_such_module", r"--import=no_such_module cannot be imported \(ModuleNotFoundError"),
        ("text.txt", "cannot be imported|is not a Python file"),
    ],
)
def test_references_that_cannot_be_imported(tmp_path, monkeypatch, reference, says):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "text.txt", "")
    with pytest.raises(UsageError, match=says):
        user_code.import_all([reference])


def test_an_error_of_the_library_is_passed_on(tmp_path):
    path = write(tmp_path, text="from kd_jax import models\nmodels.register('vgg8', int)\n")
    with pytest.raises(UsageError, match=r"^'vgg8' is a network of kd_jax: choose another name\.$"):
        user_code.import_all([path])
