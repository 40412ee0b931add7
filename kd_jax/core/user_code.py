"""A user's own modules: networks, methods and other entries that a command imports first."""

import contextlib
import contextvars
import importlib
import importlib.util
import os
import pathlib
import sys
import traceback
import zlib
from collections.abc import Iterable, Iterator

from kd_jax.core.errors import UsageError, reason

_current: contextvars.ContextVar[str | None] = contextvars.ContextVar("user_code", default=None)
_imported: set[str] = set()


def current() -> str | None:
    """Returns the reference of the module that is being imported now; None outside of imports."""
    return _current.get()


def import_all(references: Iterable[str]) -> None:
    """Imports modules of the user's, each once.

    Args:
        references: each a file, `path/to/mine.py`, or a module, `package.mine`.

    Raises:
        UsageError: if one cannot be imported.
    """
    for reference in references:
        _import(reference)


def absolute(reference: str) -> str:
    """Returns a reference that does not depend on the working directory."""
    return os.path.abspath(os.path.expanduser(reference)) if _is_file(reference) else reference


def raised(error: BaseException) -> str:
    """Returns one line on an error of a user's code: its class, and its message or its place."""
    name = type(error).__name__
    if str(error).strip():
        return f"{name}: {reason(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return name
    return f"{name} in line {frames[-1].lineno} of {os.path.basename(frames[-1].filename)}"


def _is_file(reference: str) -> bool:
    return reference.endswith(".py") or os.sep in reference


def _import(reference: str) -> None:
    reference = absolute(reference)
    if reference in _imported:
        return
    token = _current.set(reference)
    try:
        if _is_file(reference):
            _import_file(pathlib.Path(reference))
        else:
            with _working_directory_on_path():
                importlib.import_module(reference)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # a user's module raises whatever it likes
        raise UsageError(
            f"--import={reference} cannot be imported ({raised(error)}): name a Python file or a"
            " module."
        ) from error
    finally:
        _current.reset(token)
    _imported.add(reference)


def _import_file(path: pathlib.Path) -> None:
    if not path.is_file():
        raise UsageError(f"--import={path} is not a file: name a Python file or a module.")
    # A file that has been imported already, under its own name, is not run a second time.
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and os.path.abspath(file) == str(path) and module.__name__ != "__main__":
            return
    name = path.stem
    if name in sys.modules:  # another module, for instance of the standard library
        name = f"{name}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--import={path} is not a Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # a second attempt runs the file again
        raise


@contextlib.contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """Makes modules of the working directory importable, as `python -m` does."""
    folder = os.getcwd()  # the module may change it
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
