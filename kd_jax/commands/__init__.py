"""The commands of `kd-jax COMMAND`: one module each, with a function `main(argv) -> exit code`.

To add a command is to add a module: its name is the name of the command, and the first line of its
docstring is its line in `kd-jax --help`. A command whose name is a keyword of Python has an
underscore after the name of its module: `kd-jax import` is in `import_`.
"""

import ast
import importlib
import keyword
import pathlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kd_jax.core.errors import check_choice
from kd_jax.core.stop import end_on_signals

if TYPE_CHECKING:
    from kd_jax.commands._cli import USAGE as USAGE
    from kd_jax.commands._cli import Parser as Parser
    from kd_jax.commands._cli import exit_code as exit_code


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used, so that a command handles signals before."""
    if name not in ("USAGE", "Parser", "exit_code"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}._cli"), name)


def names() -> tuple[str, ...]:
    """Returns the names of all commands."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.rstrip("_") for name in modules if not name.startswith("_")))


def _module(name: str) -> str:
    """Returns the name of the module of a command."""
    return f"{name}_" if keyword.iskeyword(name) else name


def summary(name: str) -> str:
    """Returns the first line of a command's description, without importing its module."""
    source = pathlib.Path(__path__[0], f"{_module(name)}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `kd-jax COMMAND ...`; returns the exit code.

    Args:
        argv: words of the command line; None are those of this process, which signals then end.
    """
    if argv is None:
        end_on_signals()
    from kd_jax.commands._cli import exit_code

    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        import kd_jax

        print(f"kd_jax {kd_jax.__version__}")
        return 0
    if name not in names():
        return exit_code(lambda: print(check_choice(name, names(), "command")))
    module = f"{__name__}.{_module(name)}"
    # A package that is not installed is one sentence too.
    code = exit_code(lambda: importlib.import_module(module))
    return code or importlib.import_module(module).main(rest)


def _help() -> str:
    width = max(map(len, names()))
    lines = [f"  {name.ljust(width)}  {summary(name)}" for name in names()]
    return "\n".join(
        [
            "Knowledge distillation for cross-resolution image recognition.",
            "",
            "usage: kd-jax COMMAND [OPTIONS], or python -m kd_jax COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "`kd-jax COMMAND --help` describes a command.",
        ]
    )
