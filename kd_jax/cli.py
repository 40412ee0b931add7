"""What all command lines share: flags, exit codes, and several processes."""

import sys
from collections.abc import Callable, Sequence

import jax
from absl import flags, logging

from kd_jax.errors import UsageError
from kd_jax.training import Stopped

USAGE, STOPPED = 2, 143
"""Exit codes: something the user can mend; stopped by a signal, saved, to be started again."""


def parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Parses the command line.

    Raises:
        UsageError: for an unknown flag or config key, or a value of the wrong type.
    """
    try:
        rest = values(list(argv))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        reason = " ".join(str(part) for part in error.args) or repr(error)
        raise UsageError(f"{' '.join(reason.split())} (see --help)") from error
    if len(rest) > 1:
        raise UsageError(f"{' '.join(rest[1:])} is not understood: options start with two dashes.")


def start_processes() -> None:
    """Joins the processes of a pod or cluster; must come before anything touches a device."""
    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"--multihost cannot join the other processes ({error}): start it on every host of a"
            " TPU pod, a Slurm job or a Kubernetes job, or leave --multihost out."
        ) from error


def command(main: Callable[[], None]) -> int:
    """Runs a command line; what the user can mend is one sentence on stderr.

    Returns:
        The exit code.
    """
    logging.set_verbosity(logging.ERROR)  # libraries' warnings are not for the user of a command
    try:
        main()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except Stopped as stopped:
        print(f"stopped: {stopped}; the same command goes on from there", file=sys.stderr)
        return STOPPED
    return 0
