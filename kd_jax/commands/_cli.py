"""The common parts of all command lines: options, exit codes, and several processes."""

import argparse
import io
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from kd_jax.core import user_code
from kd_jax.core.errors import UsageError, check_choice, reason
from kd_jax.core.files import REMEDIES
from kd_jax.core.stop import Stopped
from kd_jax.data.local_files import is_count

USAGE = 2
"""Exit code for an error that the user can fix."""
_LARGEST_SIDE = 2**16 - 1
"""Greatest height and width of an image, as in JPEG."""


class Parser(argparse.ArgumentParser):
    """A command line whose errors are one sentence, and that can import the user's modules."""

    def __init__(self, doc: str, example: str = "", *, command: str | None = None, **values: Any):
        """Begins with `--import` only.

        Args:
            doc: text of `--help`.
            example: a command that works, for errors about missing options.
            command: name of the command, as in `kd-jax train`; None for a script.
            **values: further arguments of `argparse.ArgumentParser`.
        """
        super().__init__(
            prog=f"kd-jax {command}" if command else None,
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **values,
        )
        self._example = example
        if values.get("add_help", True):
            self.add_argument(
                "--import",
                dest="imports",
                action="append",
                default=[],
                metavar="FILE_OR_MODULE",
                help="your own networks, methods, sources ...; it may be given several times",
            )

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parses the options and imports the user's modules.

        Raises:
            UsageError: for an unknown option, a wrong value, or a module that cannot be imported.
        """
        args, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            word = unknown[0]
            known = [option for action in self._actions for option in action.option_strings]
            if word.startswith("-"):
                word = word.partition("=")[0]
                check_choice(word, known, "option")
            raise UsageError(f"{word} is not understood: options start with two dashes.")
        args.imports = [
            user_code.absolute(name) for text in args.imports for name in text.split(",") if name
        ]
        user_code.import_all(args.imports)
        return args

    def require(self, args: argparse.Namespace, *names: str) -> None:
        """Raises `UsageError` for the first option without a value."""
        for name in names:
            if not getattr(args, name):
                raise UsageError(f"--{name} is missing: type for example `{self._example}`.")

    def refuse(self, args: argparse.Namespace, names: Sequence[str], when: str) -> None:
        """Raises `UsageError` for the first of some options that has a value."""
        for name in names:
            if getattr(args, name):
                raise UsageError(f"--{name} is not used {when}: leave it out.")

    def error(self, message: str) -> NoReturn:
        """Raises `UsageError`; argparse would print and exit."""
        raise UsageError(f"{message} (see --help).")


def assignments(argv: Sequence[str], prefix: str) -> tuple[dict[str, str], list[str]]:
    """Returns the values of options such as `--config.KEY=VALUE`, and all other words.

    Args:
        argv: words of the command line.
        prefix: beginning of these options, such as `--config.`.

    Raises:
        UsageError: if a value is missing.
    """
    found, rest, words = {}, [], iter(argv)
    for word in words:
        if not word.startswith(prefix):
            rest.append(word)
            continue
        key, equals, value = word.removeprefix(prefix).partition("=")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise UsageError(f"{word} needs a value: write {word}=VALUE.")
        found[key] = value
    return found, rest


def height_and_width(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """Reads a value such as `112x96`; None stays None."""
    if text is None:
        return None
    sides = text.split("x")
    if len(sides) != 2 or not all(map(_is_side, sides)):
        raise UsageError(
            f"{option}={text} must be HEIGHTxWIDTH, such as 112x96, in pixels up to"
            f" {_LARGEST_SIDE}."
        )
    height, width = map(int, sides)
    return height, width


def probe_sizes(text: str, option: str = "--probe_sizes") -> tuple[int | None, ...]:
    """Reads a value such as `8,12,full`, where `full` becomes None."""
    parts = text.split(",")
    if not all(part == "full" or _is_side(part) for part in parts):
        raise UsageError(
            f"{option}={text} must be heights separated by commas, such as 8,16,full, in pixels up"
            f" to {_LARGEST_SIDE}."
        )
    return tuple(None if part == "full" else int(part) for part in parts)


def _is_side(text: str) -> bool:
    """Returns whether a text is a number of pixels that an image can have."""
    return is_count(text) and 1 <= int(text) <= _LARGEST_SIDE


def seed(text: str) -> int:
    """Reads a whole number from 0 to 2**63 - 1; a type for `add_argument`."""
    if not re.fullmatch(r"\d{1,19}", text) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 to 2**63 - 1")
    return int(text)


def count(text: str) -> int:
    """Reads a whole number from 1 to 2**31 - 1; a type for `add_argument`."""
    if not is_count(text) or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 1 to 2**31 - 1")
    return int(text)


def number(text: str) -> float:
    """Reads a finite number; a type for `add_argument`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} must be a finite number")
    return value


def add_network(parser: Parser) -> None:
    """Adds the options that name a trained network."""
    parser.add_argument("--network", help="folder of a finished stage, such as runs/kdim_lfw/kdim")
    parser.add_argument("--role", help="role of the network in the stage (default: student)")
    parser.add_argument(
        "--checkpoint", default="last", help="checkpoint: last or best (default: %(default)s)"
    )


def load_network(args: argparse.Namespace) -> Any:
    """Reads the network of `add_network`'s options."""
    from kd_jax.pretrained import load

    return load(args.network, role=args.role, checkpoint=args.checkpoint, key="--network")


def network_json(args: argparse.Namespace) -> dict[str, str]:
    """Returns the options of `add_network`, for the results."""
    return {name: getattr(args, name) for name in ("network", "role", "checkpoint")}


def start_processes() -> None:
    """Joins the processes of a pod or cluster; it must come before any use of a device."""
    import jax

    # JAX's own service would take SIGTERM, and the run would not stop: see `core.stop`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize()
    except Exception as error:  # the libraries of clusters raise any exception
        raise UsageError(
            f"--multihost cannot join the other processes ({reason(error)}): start it on every host"
            " of a TPU pod, with srun in a Slurm job or in each pod of a Kubernetes job, as"
            " docs/clusters.md shows, or leave --multihost out."
        ) from error


_LIMITS = {
    "can't start new thread": "no more threads can be started: raise the limit of processes (ulimit"
    " -u), and run the same command again.",
    "RESOURCE_EXHAUSTED": "the memory of the device is full: lower data.batch_size or"
    " data.eval_batch_size, or use more devices.",
}
"""Sentences for errors of limits, by a part of their text: of Python, and of XLA."""


def _unraisable(unraisable: Any) -> None:
    """Prints an exception, except those of Orbax and TensorStore after an error of their own.

    They are of other reads and writes that began at the same time, and come when these are freed.
    """
    code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
    of_orbax = code is not None and "orbax" in code.co_filename
    if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _report(text: str) -> int:
    """Prints an error on one line, with very long words cut; returns the exit code."""
    line = re.sub(r"[\x00-\x1f\x7f]", lambda character: repr(character[0])[1:-1], text)
    line = re.sub(r"\S{600,}", lambda word: f"{word[0][:60]}...{word[0][-60:]}", line)
    print(f"error: {line}", file=sys.stderr)
    return USAGE


def exit_code(main: Callable[[], object]) -> int:
    """Runs a command; an error that the user can fix becomes one sentence on stderr.

    Returns:
        The exit code: 0, or 2 for such an error, or 128 plus the signal that stopped the command.
    """
    for library in ("absl", "asyncio"):  # every error is reported by an exception too
        logging.getLogger(library).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    for stream in (sys.stdout, sys.stderr):  # a path may have characters that it cannot print
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
    except UsageError as error:
        return _report(str(error))
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in REMEDIES and error.filename is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        remedy = REMEDIES.get(error.errno or 0, "check this path")
        return _report(f"{where}{reason(error)}: {remedy}, and run the same command again.")
    except MemoryError:
        return _report("the memory is full: use fewer or smaller images at once.")
    except RuntimeError as error:
        for sign, sentence in _LIMITS.items():
            if sign in str(error):
                return _report(sentence)
        raise
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "kd_jax":
            raise
        return _report(f"{error.name} is not installed: run `pip install 'kd_jax[train]'`.")
    except ImportError as error:
        if "gcsfs" not in str(error):
            raise
        return _report("paths that begin with gs:// need gcsfs: run `pip install gcsfs`.")
    except SystemExit as done:  # argparse has printed its help
        return int(done.code or 0)
    except Stopped as stopped:
        print(f"stopped: {stopped}; the same command resumes there", file=sys.stderr)
        return 128 + stopped.number  # as a shell reports it: 143 for SIGTERM, 130 for Ctrl-C
    except KeyboardInterrupt:
        print("stopped: by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0
