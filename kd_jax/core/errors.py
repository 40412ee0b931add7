"""The error that a user can fix, and parts of its sentence: the choices and the reason."""

import difflib
from collections.abc import Iterable

_REASON = 300
"""Maximum number of characters in `reason`."""


class UsageError(ValueError):
    """Something the user can fix: one sentence that names what is wrong and the remedy.

    The command lines print it without a traceback and exit with code 2.
    """


def choices(word: object, known: Iterable[str]) -> str:
    """Returns the known words, separated by commas, with those similar to `word` first."""
    names = sorted(known)
    similar = difflib.get_close_matches(str(word), names, n=3)
    return ", ".join([*similar, *(name for name in names if name not in similar)]) or "none"


def check_choice(value: str, known: Iterable[str], key: str) -> str:
    """Returns `value` if it is known.

    Args:
        value: the word to check.
        known: all words that are allowed.
        key: the option that has this value, for the error.

    Raises:
        UsageError: if the word is unknown; similar words come first in the message.
    """
    known = tuple(known)
    if value in known:
        return value
    raise UsageError(f"{key} = {value!r} is unknown: choose one of {choices(value, known)}.")


def reason(error: BaseException) -> str:
    """Returns the message of an error on one short line; without a message, its class."""
    if isinstance(error, MemoryError):
        return "it is too large for the memory"
    text = error.strerror if isinstance(error, OSError) else None
    text = " ".join((text or str(error)).split())
    text = f"{text[:_REASON]} ..." if len(text) > _REASON else text
    return text or type(error).__name__
