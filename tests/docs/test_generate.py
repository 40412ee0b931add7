"""The generated pages: options, methods with their pictures and results, links, formulas."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from docs.pages import PAGES, ROOT

from docs.generate import commands, fields, files, methods, options, pictures, tables
from kd_jax import commands as cli
from kd_jax.experiment.building import fields_of
from kd_jax.experiment.specs import Experiment
from kd_jax.methods import METHODS
from kd_jax.models import NETWORKS

TEXTS = methods.texts()


@dataclasses.dataclass(frozen=True)
class Base:
    """Any options.

    Attributes:
        size: first sentence. The second one, which
            ends in another line.
    """

    size: int


@dataclasses.dataclass(frozen=True)
class Part(Base):
    """A part.

    Attributes:
        names: the names.
    """

    names: tuple[str, ...] = ()
    more: dict[str, Any] = dataclasses.field(default_factory=lambda: {"a": 1})


def test_an_option_has_its_type_default_and_whole_text():
    assert fields.options_of(Part, "data.part") == [
        fields.Field(
            "data.part.size",
            "int",
            "**required**",
            "first sentence. The second one, which ends in another line.",
        ),
        fields.Field("data.part.names", "list of str", "default `()`", "the names."),
        fields.Field("data.part.more", "dictionary", "default `{'a': 1}`", ""),
    ]
    assert [row.key for row in fields.options_of(Part, without=Base)] == ["names", "more"]


def test_every_key_and_every_choice_has_its_place():
    pages = options.pages()
    config = pages["options/config.md"]
    for cls, key in options.specifications():
        assert f"\n## {cls.__name__}\n" in config
        for row in fields.options_of(cls, key or ""):
            assert f"`{row.key}` <small>" in config
    assert set(fields_of(Experiment)) <= set(re.findall(r"^`(\w+)` <small>", config, re.M))
    for _, registry in options.registries():
        if registry.kind != "method":
            page = pages[fields.page_of(registry).partition("#")[0]]
            assert all(re.search(rf"^(#+ |`){name}\b", page, re.M) for name in registry.built_in())
    assert all(f"`{name}`" in pages["options/networks.md"] for name in NETWORKS.built_in())


def test_the_page_of_commands_lists_all():
    page = commands.page()
    assert all(f"\n## kd-jax {name}\n" in page for name in cli.names())
    assert "keys of a config, as in" not in page


@pytest.mark.parametrize("name", TEXTS)
def test_the_page_of_a_method_is_complete(name):
    meta, text = TEXTS[name]
    page = methods.page(name, meta, text)
    assert meta["family"] in methods.FAMILIES
    for heading in ("In a config", "Measured", *["Options"] * (name in METHODS)):
        assert page.count(f"\n## {heading}\n") == 1
    if (methods.FOLDER / f"{name}.md").exists():
        assert text.strip().startswith(f"# `{name}`: ")
        (picture,) = re.findall(r"<svg.*?</svg>", page, re.S)
        ElementTree.fromstring(picture)


def test_every_method_has_a_page():
    (pages,) = ({p for entry in methods.navigation() for ps in entry.values() for p in ps},)
    assert {f"methods/{name}.md" for name in METHODS.built_in()} <= pages


def test_the_words_of_a_picture_stay_inside():
    for meta, _ in TEXTS.values():
        if "picture" in meta:
            picture = pictures.drawn(meta["picture"], "title")
            for left, width in re.findall(
                r'<rect class="loss" x="([-\d.]+)" y="[-\d.]+" width="([\d.]+)"', picture
            ):
                assert float(left) >= 0
                assert float(left) + float(width) <= pictures.WIDTH


def test_rows_of_results_are_those_of_the_file():
    found = tables.chosen("experiments/results/horkd.md", "student", ["alone", "KD"])
    lines = (ROOT / "experiments/results/horkd.md").read_text().splitlines()
    assert all(
        line.replace(" ", "") in [x.replace(" ", "") for x in lines] for line in found.splitlines()
    )
    assert len(found.splitlines()) == 4
    with pytest.raises(ValueError, match="has no table 'student' with the rows nobody"):
        tables.chosen("experiments/results/horkd.md", "student", ["nobody"])


@pytest.mark.parametrize(
    ("text", "page", "result"),
    [
        ("[a](../CHANGELOG.md)", "api.md", "[a](changelog.md)"),
        (
            "[a](../../experiments/results/ekd.md#x)",
            "notebooks/own_loop.md",
            "[a](../results/ekd.md#x)",
        ),
        ("[a](../experiments/tsne.py)", "costs.md", "a"),
        ("[a](notebooks/quickstart.ipynb)", "index.md", "[a](notebooks/quickstart.md)"),
        ("[a](https://arxiv.org)", "costs.md", "[a](https://arxiv.org)"),
        ("```\n[a](../CHANGELOG.md)\n```", "api.md", "```\n[a](../CHANGELOG.md)\n```"),
        ("[a](docs/costs.md)", "contributing.md", "[a](costs.md)"),
    ],
)
def test_links_lead_to_the_site(text, page, result):
    assert files.linked(text, page) == result


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_exist(page):
    generated = {*options.pages(), "commands.md", "api/kd_jax.md", "api/losses.md"}
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(((?!https?:)[^)#\s]+)", text):
        target = ((ROOT / page).parent / link).resolve()
        inside = target.is_relative_to(ROOT / "docs")
        assert target.exists() or (inside and str(target.relative_to(ROOT / "docs")) in generated)
