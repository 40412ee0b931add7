"""A process that has imported everything, and forks one child per command.

A command then costs its work only, not the seconds of its imports. JAX is imported, but its devices
are not initialized, so every child chooses their number. A child can be given a fault: a limit, or
an error or SIGKILL at one of its operations on files.
"""

import atexit
import contextlib
import dataclasses
import errno
import fcntl
import importlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

MODULES = (
    "faults.two_layers",
    "kd_jax.commands.evaluate",
    "kd_jax.commands.train",
    "kd_jax.experiment.config_files",
    "kd_jax.experiment.report",
    "kd_jax.experiment.run",
    "kd_jax.pretrained",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "sklearn.datasets",
    "sklearn.model_selection",
)
CRASH = 70
"""Exit code of a child that ends by an exception."""
KILL = "kill"
_REMOVES = {"os.remove", "os.rmdir"}
_CHANGES = _REMOVES | {"os.rename", "os.mkdir", "os.truncate", "kd_jax.fsync"}
_FULL = {"ENOSPC", "EDQUOT"}


@dataclasses.dataclass(frozen=True)
class Ended:
    """The end of a child.

    Attributes:
        code: exit code; minus the number of the signal that ended it.
        out: text on stdout, or the result of a function as JSON.
        err: text on stderr.
        operations: number of its operations that change files of the watched folder.
    """

    code: int
    out: str
    err: str
    operations: int = 0

    @property
    def traceback(self) -> bool:
        """True if the child ended by an exception or a signal, or printed a traceback."""
        return self.code not in (0, 2) or "Traceback" in self.err or "Exception ignored" in self.err

    @property
    def refused(self) -> bool:
        """True if the child ended with code 2 and one line of an error, after lines of progress."""
        errors = [line.startswith("error: ") for line in self.err.splitlines()]
        return self.code == 2 and sum(errors) == 1 and errors[-1] and "Traceback" not in self.err


class Warm:
    """Starts the process; use it as a context manager."""

    def __init__(self, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.warm"],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, *arguments, **options) -> int:
        """Starts a command, or a function `module:name`, in a child; returns its process number.

        Args:
            *arguments: words of the command line after `kd-jax`; or the function and its arguments.
            **options: see `_prepare`.
        """
        return self._ask(start=[str(word) for word in arguments], options=options)

    def wait(self, number: int) -> Ended:
        """Waits for the end of a child."""
        return Ended(**self._ask(wait=number))

    def run(self, *arguments, **options) -> Ended:
        """Starts a child and waits for its end."""
        return self.wait(self.start(*arguments, **options))


def _changes(event, arguments, folder) -> bool:
    """Returns whether an operation of Python changes a file of a folder."""
    if event == "open":
        flags = arguments[2]
        if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
            return False
    elif event not in _CHANGES:
        return False
    path = arguments[0]
    if not isinstance(path, str | os.PathLike):
        return False
    return str(os.fspath(path)).startswith(folder)


def _prepare(folder=None, devices=1, file_size=None, at=None, fault=None, once=False):
    """Prepares a child for its faults.

    Args:
        folder: folder whose changes are counted.
        devices: number of devices.
        file_size: greatest size of a file that it may write, in bytes.
        at: number of the change of a file in the folder at which the fault occurs; 1 is the first.
        fault: `kill`, or the name of an error, such as `ENOSPC`.
        once: only that change fails; otherwise all later ones fail too, except that a full disk can
            remove files.

    Returns:
        A function for the number of changes up to now.
    """
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if folder is None:
        return lambda: 0
    numbers, last = itertools.count(1), 0

    def watch(event, arguments):
        nonlocal last
        if not _changes(event, arguments, folder):
            return
        last = next(numbers)
        if at is None or last < at or (once and last > at):
            return
        if fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault in _FULL and event in _REMOVES:
            return
        number = getattr(errno, fault)
        raise OSError(number, os.strerror(number), os.fspath(arguments[0]))

    sync = os.fsync

    def fsync(file):
        number = file if isinstance(file, int) else file.fileno()
        sys.audit("kd_jax.fsync", os.readlink(f"/proc/self/fd/{number}"))
        sync(file)

    os.fsync = fsync
    sys.addaudithook(watch)
    return lambda: last


def _work(words) -> int:
    """Runs a command or a function in the child; returns its exit code."""
    from kd_jax import commands

    if ":" in words[0]:
        module, _, name = words[0].partition(":")
        result = getattr(importlib.import_module(module), name)(*words[1:])
        if isinstance(result, int):
            return result
        print(json.dumps(result))
        return 0
    return commands.main(words)


def _child(words, options, outputs, report) -> None:
    """The whole life of a child."""
    for number, pipe in zip((1, 2), outputs, strict=True):
        os.dup2(pipe, number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    code, operations = CRASH, lambda: 0
    try:
        operations = _prepare(**options)
        code = _work(words)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        for thread in threading.enumerate():  # as the interpreter does at its end
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os.write(report, str(operations()).encode())
    os._exit(code)


def _pipe():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    return reader, writer


def _serve(requests: Iterator[str], answer: Callable[[object], None]) -> None:
    """Answers the requests of `Warm`."""
    children = {}
    for line in requests:
        request = json.loads(line)
        if "start" in request:
            pipes = [_pipe() for _ in range(3)]
            number = os.fork()
            if not number:
                _child(request["start"], request["options"], [w for _, w in pipes[:2]], pipes[2][1])
            for _, writer in pipes:
                os.close(writer)
            children[number] = [reader for reader, _ in pipes]
            answer(number)
        else:
            number = request["wait"]
            _, status = os.waitpid(number, 0)
            texts = [_read(reader) for reader in children.pop(number)]
            answer(
                {
                    "code": os.waitstatus_to_exitcode(status),
                    "out": texts[0],
                    "err": texts[1],
                    "operations": int(texts[2] or 0),
                }
            )


def _read(reader: int) -> str:
    with open(reader, "rb") as file:
        return file.read().decode(errors="replace")


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    _serve(sys.stdin, lambda value: print(json.dumps(value), flush=True))
