"""What all command lines share: flags, exit codes, and several processes."""

import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import jax
from absl import flags, logging
from etils import epath

from kd_jax.errors import UsageError, choices
from kd_jax.files import folder
from kd_jax.training import Stopped
from kd_jax.weights import Trained, load

USAGE = 2
"""Exit code for something that the user can mend."""


def parse(values: flags.FlagValues) -> None:
    """Parses the command line.

    Raises:
        UsageError: for an unknown flag or config key, or a value of the wrong type.
    """
    try:
        rest = values(sys.argv)
    except Exception as error:  # whatever a config file raises, too
        raise UsageError(f"{_reason(error)} (see --help).") from error
    if len(rest) > 1:
        raise UsageError(f"{' '.join(rest[1:])} is not understood: options start with two dashes.")


def writable(flag: flags.FlagHolder) -> epath.Path:
    """The file that a flag names, in a folder that is there, before anything is computed."""
    path = folder(flag.value)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
    except OSError as error:
        raise UsageError(
            f"--{flag.name}={flag.value} cannot be written ({error}): name a file elsewhere."
        ) from error
    return path


def one_of(flag: flags.FlagHolder, known: Iterable[str]) -> None:
    """Raises `UsageError` unless a flag has one of the known values."""
    if flag.value not in known:
        raise UsageError(
            f"--{flag.name}={flag.value} is unknown: choose one of {choices(flag.value, known)}."
        )


def height_and_width(flag: flags.FlagHolder) -> tuple[int, int] | None:
    """A flag such as `--size=112x96`; None if it has no value."""
    if flag.value is None:
        return None
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", flag.value):
        raise UsageError(f"--{flag.name}={flag.value} must be HEIGHTxWIDTH, such as 112x96.")
    height, width = map(int, flag.value.split("x"))
    return height, width


def probe_sizes(flag: flags.FlagHolder) -> tuple[int | None, ...]:
    """A flag such as `--probe_sizes=8,12,full`, where `full` becomes None."""
    if not re.fullmatch(r"(?:[1-9]\d*|full)(?:,(?:[1-9]\d*|full))*", flag.value):
        raise UsageError(
            f"--{flag.name}={flag.value} must be heights joined by commas, such as 8,16,full."
        )
    return tuple(None if text == "full" else int(text) for text in flag.value.split(","))


class Command:
    """A command line: its flags, and `--help`.

    Attributes:
        values: the flags' values.
    """

    def __init__(self, doc: str, example: str):
        """Begins without any flags.

        Args:
            doc: what `--help` says first.
            example: a command that works, as one types it.
        """
        self.values = flags.FlagValues()
        self._doc, self._example = doc, example
        self._wants_help = self.boolean("help", False, "Show this text.")

    def string(self, name: str, default: str | None, text: str) -> flags.FlagHolder:
        """A flag of its own, with what `--help` says of it."""
        return flags.DEFINE_string(name, default, text, flag_values=self.values)

    def boolean(self, name: str, default: bool, text: str) -> flags.FlagHolder:
        """The same, true or false."""
        return flags.DEFINE_bool(name, default, text, flag_values=self.values)

    def integer(self, name: str, default: int, text: str) -> flags.FlagHolder:
        """The same, a whole number from 0 to 2**63 - 1."""
        return flags.DEFINE_integer(
            name, default, text, lower_bound=0, upper_bound=2**63 - 1, flag_values=self.values
        )

    def number(self, name: str, default: float, text: str) -> flags.FlagHolder:
        """The same, a number."""
        return flags.DEFINE_float(name, default, text, flag_values=self.values)

    def require(self, *needed: flags.FlagHolder) -> None:
        """Raises `UsageError` for the first flag without a value."""
        for flag in needed:
            if not flag.value:
                raise UsageError(f"--{flag.name} is missing: type for example `{self._example}`.")

    def refuse(self, kind: str, unused: Iterable[str]) -> None:
        """Raises `UsageError` for a flag that was given, but is not used beside the flag `kind`."""
        for name in sorted(unused):
            if self.values[name].present:
                raise UsageError(f"--{name} is not used with --{kind}: leave it out.")

    def run(self, main: Callable[[], None]) -> int:
        """Parses the flags and runs the command; returns the exit code."""

        def parsed() -> None:
            parse(self.values)
            if self._wants_help.value:
                print(self._doc, self.values.get_help(), sep="\n")
            else:
                main()

        return command(parsed)


class NetworkFlags:
    """The flags that name a trained network."""

    def __init__(self, command: Command):
        """Adds them to a command."""
        self.network = command.string(
            "network", None, "Folder of a finished stage, such as runs/kdim_lfw/kdim."
        )
        self.role = command.string("role", "student", "Which network of the stage.")
        self.checkpoint = command.string("checkpoint", "last", "Which checkpoint: last or best.")

    def load(self) -> Trained:
        """Reads the network."""
        return load(
            self.network.value,
            role=self.role.value,
            checkpoint=self.checkpoint.value,
            key="--network",
        )

    def to_json(self) -> dict[str, str]:
        """What they say, for the results."""
        return {flag.name: flag.value for flag in (self.network, self.role, self.checkpoint)}


def config_dict(config: flags.FlagHolder) -> dict[str, Any]:
    """The values of a parsed `--config` as plain dictionaries."""
    try:
        return config.value.to_dict()
    except AttributeError as error:
        raise UsageError("--config: get_config must return a ConfigDict.") from error
    except OSError as error:  # absl keeps the failure to load a file until the value is used
        reason = str(error).strip().splitlines()[-1].strip()
        raise UsageError(f"--config cannot be read: {reason}.") from error


def _reason(error: Exception) -> str:
    """One sentence; absl wraps an error of a config file in the whole of its traceback."""
    text = " ".join(map(str, error.args)) or repr(error)
    if "Traceback" in text:
        return "--config: " + text.strip().splitlines()[-1].partition("Error: ")[2]
    if key := re.fullmatch(r"\W*(\w+)\W*", text):  # ml-collections says no more than its name
        return f"--config has no key {key[1]!r}: its keys stand in the config file"
    if hint := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text):
        return f"--config has no key {hint[2]!r}: did you mean {hint[1]!r}?"
    return " ".join(text.split())


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
        return 128 + stopped.number  # as the shell has it: 143 for SIGTERM, 130 for Ctrl-C
    return 0
