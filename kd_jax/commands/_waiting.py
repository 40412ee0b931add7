"""Messages about work that takes seconds before a command prints anything else."""

import contextlib
import sys
import threading
from collections.abc import Iterator

_SECONDS = 10.0
"""Time without a message where there is no terminal."""


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Prints what is being done: at once on a terminal, elsewhere if it takes ten seconds.

    A command that fails at once thus prints its one sentence only.

    Args:
        text: the work, as in `reading the images`.
    """

    def say() -> None:
        print(f"{text} ...", file=sys.stderr, flush=True)

    if sys.stderr.isatty():
        say()
        yield
        return
    timer = threading.Timer(_SECONDS, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
