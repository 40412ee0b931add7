"""The common parts of all command lines: options, exit codes, and several processes."""

import argparse
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from etils import epath

from kd_jax.core import user_code
from kd_jax.core.errors import UsageError, check_choice
from kd_jax.core.files import absolute_path
from kd_jax.core.stop import Stopped

USAGE = 2
"""Exit code for an error that the user can fix."""


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
        args, unknown = self.parse_known_args(argv)
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


def writable(path: str, option: str) -> epath.Path:
    """Returns the path of a file to write, in an existing folder, before anything is computed."""
    place = absolute_path(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            raise IsADirectoryError("it is a folder")
    except OSError as error:
        raise UsageError(
            f"{option}={path} cannot be written ({error}): name a file elsewhere."
        ) from error
    return place


def height_and_width(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """Reads a value such as `112x96`; None stays None."""
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise UsageError(f"{option}={text} must be HEIGHTxWIDTH, such as 112x96.")
    height, width = map(int, text.split("x"))
    return height, width


def probe_sizes(text: str, option: str = "--probe_sizes") -> tuple[int | None, ...]:
    """Reads a value such as `8,12,full`, where `full` becomes None."""
    if not re.fullmatch(r"(?:[1-9]\d*|full)(?:,(?:[1-9]\d*|full))*", text):
        raise UsageError(f"{option}={text} must be heights separated by commas, such as 8,16,full.")
    return tuple(None if part == "full" else int(part) for part in text.split(","))


def seed(text: str) -> int:
    """Reads a whole number from 0 to 2**63 - 1; a type for `add_argument`."""
    if not re.fullmatch(r"\d+", text) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 0 to 2**63 - 1")
    return int(text)


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

    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"--multihost cannot join the other processes ({error}): start it on every host of a"
            " TPU pod, a Slurm job or a Kubernetes job, or leave --multihost out."
        ) from error


_REMEDIES = {
    errno.ENOSPC: "free space on the disk",
    errno.EDQUOT: "free space in the quota",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a path with the right permissions",
    errno.EPERM: "choose a path with the right permissions",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close files of other programs",
    errno.EIO: "check the disk",
}
"""What the user can do about errors of the operating system."""


def _unraisable(unraisable: Any) -> None:
    """Prints an exception, except those of TensorStore's writes after one of them has failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def exit_code(main: Callable[[], object]) -> int:
    """Runs a command; an error that the user can fix becomes one sentence on stderr.

    Returns:
        The exit code: 0, or 2 for such an error, or 128 plus the signal that stopped the command.
    """
    for library in ("absl", "asyncio"):  # every error is reported by an exception too
        logging.getLogger(library).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    try:
        main()
        sys.stdout.flush()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        reason = f"{where}{error.strerror}: {_REMEDIES[error.errno]}"
        print(f"error: {reason}, and run the same command again.", file=sys.stderr)
        return USAGE
    except MemoryError:
        print("error: the memory is full: use fewer or smaller images at once.", file=sys.stderr)
        return USAGE
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "kd_jax":
            raise
        print(
            f"error: {error.name} is not installed: run `pip install 'kd_jax[train]'`.",
            file=sys.stderr,
        )
        return USAGE
    except SystemExit as done:  # argparse has printed its help
        return int(done.code or 0)
    except Stopped as stopped:
        print(f"stopped: {stopped}; the same command resumes there", file=sys.stderr)
        return 128 + stopped.number  # as a shell reports it: 143 for SIGTERM, 130 for Ctrl-C
    return 0
