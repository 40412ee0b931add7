"""Registries: everything that a config can name, one registry per kind."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, overload

from kd_jax.core import user_code
from kd_jax.core.errors import UsageError, check_choice, choices

T = TypeVar("T")
Item = TypeVar("Item")


class Registry(Generic[T]):
    """Entries of one kind by name, such as all networks or all sources of images.

    An entry is a class or a function. A user's own entries are equal to the library's: they work
    in every config and in every command.
    """

    def __init__(self, kind: str, package: str | None = None):
        """Makes an empty registry.

        The library calls `seal` after its own entries; with a package this happens by itself.

        Args:
            kind: what errors call an entry, such as `"network"`.
            package: name of a package whose modules register the library's entries. All of its
                modules are imported when the registry is first read. To add an entry is to add a
                file to this package.
        """
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._sealed: frozenset[str] = frozenset()
        self._origins: dict[str, str | None] = {}

    @overload
    def register(self, name: str, item: None = None) -> Callable[[Item], Item]: ...

    @overload
    def register(self, name: str, item: Item) -> Item: ...

    def register(self, name: str, item: Any = None) -> Any:
        """Adds an entry; a later entry of the user's replaces an earlier one of the same name.

        Use it as a decorator, `@register("mine")`, or call it, `register("mine", item)`.

        Args:
            name: the name in configs.
            item: the entry; None returns the decorator.

        Returns:
            The entry, or the decorator.

        Raises:
            UsageError: if the library itself has an entry of this name.
        """
        if item is None:
            return lambda item: self.register(name, item)
        if not _is_ours(item):
            self._discover()  # the names of the library must be known
        if name in self._sealed:
            article = "an" if self.kind[0] in "aeiou" else "a"
            raise UsageError(f"{name!r} is {article} {self.kind} of kd_jax: choose another name.")
        self._entries[name] = item
        self._origins[name] = user_code.current()
        return item

    def seal(self) -> None:
        """Protects all present entries: they are the library's, and nobody can replace them."""
        self._sealed = frozenset(self._entries)

    def names(self) -> tuple[str, ...]:
        """Returns all names, in the order of registration."""
        self._discover()
        return tuple(self._entries)

    def built_in(self) -> tuple[str, ...]:
        """Returns the names of the library's own entries, which nobody can replace."""
        self._discover()
        return tuple(name for name in self._entries if name in self._sealed)

    def get(self, name: str, key: str | None = None) -> T:
        """Returns the entry of a name.

        Args:
            name: the name.
            key: the option that has this value, for the error; None takes the kind.

        Raises:
            UsageError: if the name is no word, or unknown; similar names come first in the message.
        """
        self._discover()
        if not isinstance(name, str):
            raise UsageError(
                f"{key or self.kind} must be one word, not a value of the type"
                f" {type(name).__name__}: choose one of {choices('', self._entries)}."
            )
        check_choice(name, self._entries, key or self.kind)
        return self._entries[name]

    def name_of(self, item: object) -> str:
        """Returns the name of an entry; raises `KeyError` if there is none."""
        self._discover()
        for name, entry in self._entries.items():
            if entry is item:
                return name
        raise KeyError(item)

    def origin(self, name: str) -> str | None:
        """Returns the `--import` value that registered a name; None for all other entries."""
        return None if name in self._sealed else self._origins.get(name)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _discover(self) -> None:
        if self._package is None:
            return
        name, self._package = self._package, None
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{name}.{module.name}")
        self.seal()


def _is_ours(item: object) -> bool:
    """Returns whether an entry is defined in kd_jax."""
    module = getattr(getattr(item, "func", item), "__module__", None) or ""
    return module.partition(".")[0] == "kd_jax"
