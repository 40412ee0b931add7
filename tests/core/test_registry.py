import functools
import importlib
import pathlib
import subprocess
import sys

import pytest

from kd_jax.core import user_code
from kd_jax.core.errors import UsageError
from kd_jax.core.registry import Registry
from kd_jax.methods import METHODS
from kd_jax.models import NETWORKS

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def thing():
    """A registry with two entries."""
    registry = Registry("thing")
    registry.register("one", int)
    registry.register("two", float)
    return registry


@pytest.mark.parametrize("name", [["one"], {"name": "one"}, None, 1])
def test_a_name_is_one_word(thing, name):
    with pytest.raises(UsageError, match=r"^method\.name must be one word, .*: choose one of one"):
        thing.get(name, "method.name")


def test_entries_are_read_by_name_in_the_order_of_registration(thing):
    assert thing.names() == tuple(thing) == ("one", "two")
    assert thing.get("two") is float
    assert "one" in thing
    assert "three" not in thing
    assert thing.name_of(float) == "two"
    with pytest.raises(KeyError):
        thing.name_of(str)


def test_register_is_a_decorator_and_a_function(thing):
    @thing.register("three")
    class Three:
        pass

    assert thing.get("three") is Three
    assert thing.register("four", Three) is Three


def test_an_unknown_name_lists_similar_names_first(thing):
    with pytest.raises(UsageError, match=r"thing = 'twoo' is unknown: choose one of two, one\."):
        thing.get("twoo")
    with pytest.raises(UsageError, match=r"method\.name = 'three' is unknown"):
        thing.get("three", "method.name")
    with pytest.raises(UsageError, match=r"choose one of none\."):
        Registry("thing").get("one")


def test_a_later_entry_of_the_user_replaces_an_earlier_one(thing):
    thing.register("one", str)
    assert thing.get("one") is str
    assert thing.names() == ("one", "two")


def test_only_entries_before_the_seal_are_protected(thing):
    thing.seal()
    thing.register("three", str)
    assert thing.register("three", int) is thing.get("three")
    with pytest.raises(UsageError, match="'one' is a thing of kd_jax: choose another name"):
        thing.register("one")(str)
    assert thing.get("one") is int


@pytest.mark.parametrize(
    ("registry", "name", "says"),
    [
        (NETWORKS, "resnet18", "'resnet18' is a network of kd_jax: choose another name"),
        (METHODS, "horkd", "'horkd' is a method of kd_jax"),
    ],
)
def test_a_name_of_the_library_is_refused(registry, name, says):
    before = registry.get(name)
    # A part of the library under a name of the library is the user's entry, too.
    for item in (int, functools.partial(before)):
        with pytest.raises(UsageError, match=says):
            registry.register(name, item)
    assert registry.get(name) is before


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of a package; returns the name of the package."""

    def write(name, **modules):
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(parents=True)
        for module, text in {"__init__": "", **modules}.items():
            (folder / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return name

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "registry_plugins"]:
        del sys.modules[name]


def test_a_package_is_imported_when_its_registry_is_first_read(package):
    text = "import registry_plugins\nregistry_plugins.registry.register('{0}', {0})\n"
    name = package("registry_plugins", first=text.format("int"), second=text.format("str"))
    registry = Registry("thing", name)
    importlib.import_module(name).registry = registry
    assert "registry_plugins.first" not in sys.modules
    assert registry.names() == ("int", "str")
    assert registry.get("str") is str


def test_origin_is_the_reference_that_is_being_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(NETWORKS, "_entries", dict(NETWORKS._entries))
    path = tmp_path / "my_network.py"
    path.write_text(
        "from kd_jax import models\n"
        "models.register('network_of_a_file', lambda **options: None)\n"
        "models.names()\n"
    )
    user_code.import_all([str(path)])
    assert NETWORKS.origin("network_of_a_file") == str(path)
    assert NETWORKS.origin("resnet18") is None
    NETWORKS.register("network_of_a_file", int)  # by other means
    assert NETWORKS.origin("network_of_a_file") is None


def test_entries_of_the_library_are_its_own_when_a_user_imports_it_first(tmp_path):
    """The library is imported in a new process, inside the file of the user."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from kd_jax.data import SOURCES\n"
        "from kd_jax.models import NETWORKS\n"
        "from kd_jax.training import OPTIMIZERS, SCHEDULES\n"
        "from kd_jax.core.errors import UsageError\n"
        "SOURCES.register('mine', int)\n"
        "for registry, name in ((SOURCES, 'npz'), (NETWORKS, 'vgg8'), (OPTIMIZERS, 'sgd')):\n"
        "    try:\n"
        "        registry.register(name, int)\n"
        "        print(name, 'was replaced')\n"
        "    except UsageError:\n"
        "        pass\n"
    )
    code = (
        "from kd_jax.core import user_code\n"
        f"user_code.import_all([{str(path)!r}])\n"
        "from kd_jax.data import SOURCES\n"
        "from kd_jax.models import NETWORKS\n"
        "from kd_jax.training import OPTIMIZERS\n"
        "for registry in (SOURCES, NETWORKS, OPTIMIZERS):\n"
        "    print(*(n for n in registry if registry.origin(n) is not None))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.splitlines() == ["mine", "", ""]
