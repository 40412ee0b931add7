"""Links and examples of docstrings, in the form that mkdocstrings reads."""

import re
from typing import Any

import griffe

_LINK = re.compile(r"`([^`<]+?)\s+<(https?://[^>\s]+)>`_")


class DocstringLinks(griffe.Extension):
    """Rewrites all docstrings before they are rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of one object."""
        if obj.docstring is not None:
            text = _LINK.sub(_markdown, obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)


def _markdown(match: re.Match) -> str:
    words = " ".join(match[1].split())
    return f"[{words}]({match[2]})"
