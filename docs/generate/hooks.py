"""Hooks of MkDocs: they add the generated pages, and refuse pages that load from other servers.

`.mkdocs.yml` names this file. Run `mkdocs build --strict -f .mkdocs.yml` in the root of the
repository.
"""

import functools
import pathlib
import re
import sys

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from docs.generate import api, commands, files, formulas, methods, notebooks, options

_LOADED = re.compile(
    r"<(?:script|img|iframe|video|audio|source|link|object|embed)\b[^>]*"
    r"\s(?:src|href|data|srcset)\s*=\s*[\"']?(?:https?:)?//[^>]*>|@import|url\([\"']?(?:https?:)?//"
)
"""A part of a page or of a style that a browser loads from another server."""


@functools.cache
def _generated() -> dict[str, str]:
    """Returns the text of all generated pages by path."""
    known = {f"methods/{name}.md": text for name, (_, text) in methods.texts().items()}
    return {**options.pages(), **api.pages(), **known, "commands.md": commands.page()}


def on_config(config: MkDocsConfig) -> None:
    """Adds the generated pages to the navigation, in place of the names in angle brackets."""
    results = [f"results/{pathlib.PurePosixPath(name).name}" for name in files.results()]
    parts = {
        "<methods>": methods.navigation(),
        "<options>": [{"Options": list(options.pages())}],
        "<api>": [{"Python interface": list(api.pages())}],
        "<results>": [{"Measured results": results}],
    }
    for section in config.nav or []:
        for title, pages in section.items():
            section[title] = [p for entry in pages for p in parts.get(str(entry), [entry])]


def on_files(found: Files, config: MkDocsConfig) -> None:
    """Adds the generated pages, the copies of files outside docs/ and the notebooks."""
    for path, text in _generated().items():
        if found.get_file_from_path(path) is None:
            found.append(File.generated(config, path, content=text))
    for name, path in files.copies().items():
        found.append(File.generated(config, path, abs_src_path=str(files.ROOT / name)))
    for notebook in sorted((files.ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{notebook.stem}.md"
        found.append(File.generated(config, page, content=notebooks.markdown(notebook)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Completes the pages of the methods, and leads the links of all pages to the site."""
    del config, files
    path = pathlib.PurePosixPath(page.file.src_uri)
    if path.parent.name == "methods":
        meta, text = methods.texts()[path.stem]
        try:
            markdown = methods.page(path.stem, meta, text)
        except ValueError as error:
            raise PluginError(f"docs/{path}: {error}") from error
    return _linked(markdown, str(path))


_linked = files.linked


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the formulas into MathML."""
    del page, config, files
    return formulas.rendered(html)


def on_post_build(config: MkDocsConfig) -> None:
    """Raises an error if a page would load something from another server."""
    for path in sorted(pathlib.Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css"):
            for match in _LOADED.finditer(path.read_text()):
                if 'rel="canonical"' not in match[0]:
                    raise PluginError(f"{path} loads from another server: {match[0][:200]}")
