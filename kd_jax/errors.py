"""The one error that a user can mend, and how it names the choices."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the user can mend: one sentence that names what is wrong and the remedy.

    The command lines print it without a traceback and exit with code 2.
    """


def choices(word: object, known: Iterable[str]) -> str:
    """What a user may have meant by a word: the known words, those like it first."""
    known = sorted(known)
    similar = difflib.get_close_matches(str(word), known, n=3)
    return ", ".join([*similar, *(name for name in known if name not in similar)]) or "none"
