"""Pages of the site whose home is outside `docs/`, and links between all pages.

The README files, the changelog and the measured results have one home in the repository, where
people read them too. The site shows copies, and the links of all pages lead to these.
"""

import os
import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]

ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "kd_jax/losses/README.md": "losses.md",
    "configs/ekd/README.md": "configs/ekd.md",
    "configs/kdim/README.md": "configs/kdim.md",
}
"""Pages of the site by their files in the repository."""

_LINK = re.compile(
    r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|data:|#)([^)\s#]*)(#[^)\s]*)?\)"
)


def results() -> list[str]:
    """Returns the files of measured results, relative to the root of the repository."""
    folder = ROOT / "experiments" / "results"
    return sorted(str(path.relative_to(ROOT)) for path in folder.glob("*.md"))


def copies() -> dict[str, str]:
    """Returns all pages of the site by their files in the repository."""
    there = {name: page for name, page in ELSEWHERE.items() if (ROOT / name).exists()}
    return there | {name: f"results/{posixpath.basename(name)}" for name in results()}


def home(page: str) -> str:
    """Returns the file of a page, relative to the root of the repository."""
    homes = {page: name for name, page in copies().items()}
    return homes.get(page, f"docs/{page}")


def linked(text: str, page: str) -> str:
    """Returns the text of a page with links that work on the site.

    A link to a file that the site does not have becomes the text of the link.

    Args:
        text: Markdown.
        page: path of the page on the site.
    """
    folder, known = posixpath.dirname(home(page)), copies()

    def replace(match: re.Match) -> str:
        image, words, path, anchor = match.groups()
        target = posixpath.normpath(posixpath.join(folder, path))
        if target in known:
            to = known[target]
        elif target.startswith("docs/"):
            to = target.removeprefix("docs/").removesuffix(".ipynb")
            to += ".md" if target.endswith(".ipynb") else ""
        else:
            return words
        relative = os.path.relpath(to, posixpath.dirname(page) or ".")
        return f"{image}[{words}]({relative}{anchor or ''})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)  # code stays as it is
    return "".join(p if p.startswith("```") else _LINK.sub(replace, p) for p in parts)
