import dataclasses
import re
import subprocess
import sys

import pytest

from kd_jax.core.errors import UsageError
from kd_jax.data import SOURCES, Source, names, register
from kd_jax.data.base import slices
from kd_jax.data.sources.digits import Digits

NAMES = {
    *("digits", "tfds", "npz", "folder", "tiny_imagenet", "face_folder", "face_records"),
    *("class_folders", "cub200", "cars196", "stanford_online_products"),
}


def test_all_sources_are_dataclasses_that_a_config_can_name():
    assert set(SOURCES.built_in()) == NAMES <= set(names())
    assert SOURCES.get("digits") is Digits
    for name in NAMES:
        source = SOURCES.get(name)
        assert issubclass(source, Source)
        assert dataclasses.is_dataclass(source)
    with pytest.raises(UsageError, match=r"data.source.name = 'digit' is unknown: .* of digits,"):
        SOURCES.get("digit", "data.source.name")


def test_a_user_can_add_a_source(monkeypatch):
    monkeypatch.setattr(SOURCES, "_entries", {name: SOURCES.get(name) for name in names()})

    @register("mine")
    class Mine(Source):
        """No images."""

    assert SOURCES.get("mine") is Mine
    with pytest.raises(UsageError, match="'digits' is a source of kd_jax"):
        register("digits", Mine)


def test_sources_are_imported_when_the_registry_is_read():
    code = """
import sys
import kd_jax.data
print([name for name in sys.modules if name.startswith("kd_jax.data.sources")])
print(sorted(kd_jax.data.names()))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[]", str(sorted(NAMES))]


def test_sets_that_are_always_in_memory_cannot_be_opened():
    with pytest.raises(UsageError, match=r"Digits always reads .* set data.stream = False"):
        Digits().open("train")


SIZES = {"train": 10, "test": 4}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", ("train", range(10))),
        ("train[:80%]", ("train", range(8))),
        ("test[1:-1]", ("test", range(1, 3))),
        ("train[4:4]", ("train", range(4, 4))),
    ],
)
def test_slices_follow_the_notation_of_tfds(split, expected):
    name, rows = slices(split, SIZES)
    assert (name, range(SIZES[name])[rows]) == expected


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("validation", "cannot be read: write one of ['test', 'train']"),
        ("train[", "cannot be read"),
        ("train[:99]", "cannot be read"),
        ("all", "joins several parts"),
        ("all[:50%]", "cannot be read"),
        ("train+test", "joins several parts"),
        ("train[:10%]+train[90%:]", "joins several parts"),
    ],
)
def test_wrong_splits_are_named(split, says):
    with pytest.raises(UsageError, match=re.escape(f"split {split!r} {says}")):
        slices(split, SIZES)
