"""Formulas of the pages: from LaTeX to MathML while the site is built.

Browsers show MathML without scripts and without network.
"""

import html
import re

import latex2mathml.converter

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)


def rendered(page: str) -> str:
    """Returns the HTML of a page with MathML in place of the LaTeX that arithmatex has found."""
    page = _BLOCK.sub(lambda match: f'<div class="formula">{_lines(match[1])}</div>', page)
    return _INLINE.sub(lambda match: _mathml(match[1], "inline"), page)


def _lines(latex: str) -> str:
    """Returns the parts of a formula between wide spaces, which may be in lines of their own."""
    parts = re.split(r"\\q?quad\b", latex)
    return "".join(f"<span>{_mathml(part, 'block')}</span>" for part in parts)


def _mathml(latex: str, display: str) -> str:
    return latex2mathml.converter.convert(html.unescape(latex).strip(), display=display)
