"""Runs of several processes, one of which has ended."""

import contextlib
from collections.abc import Iterator

import jax

from kd_jax.core.errors import UsageError, reason

_SIGNS = ("ABORTED", "DEADLINE_EXCEEDED", "Gloo", "UNAVAILABLE", "heartbeat")
"""Parts of the errors that a process gets from JAX after another one has ended."""


def lost_process(error: BaseException) -> UsageError | None:
    """Returns the error to raise if another process has ended, or None for any other cause."""
    text = str(error)
    if jax.process_count() == 1 or not any(sign in text for sign in _SIGNS):
        return None
    return UsageError(
        f"Another process of this run has ended, or cannot be reached ({reason(error)}): run the"
        " same command in all processes again; it resumes."
    )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Turns the errors that follow the end of another process into one sentence.

    Raises:
        UsageError: if an error of JAX shows that another process has ended.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if lost := lost_process(error):
            raise lost from error
        raise
