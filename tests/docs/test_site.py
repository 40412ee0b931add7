"""Parts of the site that need the packages of the extra `docs`."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from docs.pages import PAGES, ROOT

FORMULA = re.compile(r"\$\$(.*?)\$\$|(?<![\\$`])\$([^$`\n]+)\$", re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/methods/")])
def test_formulas_become_mathml(page):
    pytest.importorskip("latex2mathml")
    from docs.generate import formulas

    text = re.sub(r"`[^`]*`", "", (ROOT / page).read_text())
    found = FORMULA.findall(text)
    for block, inline in found:
        kind, left, right = ("div", r"\[", r"\]") if block else ("span", r"\(", r"\)")
        html = f'<{kind} class="arithmatex">{left}{block or inline}{right}</{kind}>'
        result = formulas.rendered(html)
        assert "arithmatex" not in result
        ElementTree.fromstring(f"<p>{result}</p>")
        words = re.sub(r"<[^>]+>", "", result)
        assert "\\" not in words, words  # a command that the converter does not know
    registered = "## Formula" in text
    assert bool(found) == registered or page.endswith(("takd.md", "born_again.md", "snapshot.md"))


@pytest.mark.parametrize(
    ("html", "outside"),
    [
        ('<script src="https://cdn.net/x.js"></script>', True),
        ('<img alt="a" src=//host/x.png>', True),
        ('<link rel="stylesheet" href="https://fonts.net/css">', True),
        ("@import 'x.css'", True),
        ("a { background: url(https://host/x.png) }", True),
        ('<a href="https://arxiv.org/abs/1503.02531">paper</a>', False),
        ('<script src="assets/x.js"></script>', False),
        ("@font-face { src: url(../fonts/math.woff2) }", False),
        ('<img src="data:image/png;base64,AAAA">', False),
    ],
)
def test_what_a_browser_loads_from_outside_is_found(html, outside):
    pytest.importorskip("mkdocs")
    from docs.generate import hooks

    assert bool(hooks._LOADED.search(html)) == outside
