"""The pages of the documentation, and the code in them."""

import pathlib
import re

from docs.generate import methods

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


def blocks(page: str, language: str) -> list[str]:
    """Returns the blocks of code of a page, in a language."""
    return blocks_in((ROOT / page).read_text(), language)


def blocks_in(text: str, language: str) -> list[str]:
    """Returns the blocks of code of a text, in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.M)


def commands_of(block: str) -> list[str]:
    """Returns the commands of a block, each on one line."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if not line.startswith((" ", "#"))]


def all_blocks() -> list[tuple[str, str]]:
    """Returns every block of shell commands with its page, those of the pages of methods too."""
    found = [(page, block) for page in PAGES for block in blocks(page, "bash")]
    for name, (meta, _) in methods.texts().items():
        text = methods.config_lines(name, meta)
        found += [(f"docs/methods/{name}.md", block) for block in blocks_in(text, "bash")]
    return found
