"""Stopping on request: SIGTERM and Ctrl-C save before the process ends.

This module imports only the standard library, so that a command can handle signals at once.
"""

import contextlib
import os
import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to end
    """Training was asked to stop, and has saved its state.

    Attributes:
        number: number of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class StopSignal:
    """A context in which SIGTERM and the first Ctrl-C only set `requested`.

    In a command, see `end_on_signals`: a signal ends the process at once unless `unsaved` is set,
    and so does the second signal.

    Attributes:
        requested: True after a signal to this process. Several processes must agree first.
        number: number of the signal.
        unsaved: whether there is a state that no checkpoint holds.
    """

    def __init__(self):
        self.requested = False
        self.number = signal.SIGTERM
        self.unsaved = False
        self._previous = {}

    def __enter__(self):
        if _command.active:
            _command.stop = self
        elif threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception):
        _command.stop = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def request(self, number: int) -> None:
        """Asks to stop."""
        self.requested, self.number = True, signal.Signals(number)

    def _request(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.request(number)
        if number == signal.SIGINT:  # a second Ctrl-C ends it at once
            signal.signal(number, self._previous[number])


class _Command:
    """The reaction of a command to signals.

    Attributes:
        active: whether `end_on_signals` was called.
        stop: the `StopSignal` whose context is entered, or None.
    """

    def __init__(self) -> None:
        self.active = False
        self.stop: StopSignal | None = None

    def react(self, number: int) -> None:
        """Ends the process, or asks to stop if there is a state to save."""
        name, stop = signal.Signals(number).name, self.stop
        if stop is not None and stop.unsaved and not stop.requested:
            stop.request(number)
            _say(f"{name}: saving and stopping at the next step; a second signal ends it at once")
            return
        then = "" if stop is None else "; the same command resumes from the last saved step"
        _say(f"stopped: at once by {name}{then}")
        os._exit(128 + number)  # no cleanup: it could wait for a compilation


_command = _Command()


def end_on_signals() -> None:
    """Lets SIGTERM and Ctrl-C end this process with one line and the exit code 128 + signal.

    It is for commands, before they import anything else, and lasts to the end of the process. In
    the context of a `StopSignal` with an unsaved state, the first signal only asks to stop.

    A thread reacts, because Python runs handlers between two instructions of the main thread,
    which can be in a compilation of XLA for minutes.
    """
    if _command.active or threading.current_thread() is not threading.main_thread():
        return
    _command.active = True
    heard, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    for number in SIGNALS:
        signal.signal(number, _keep)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(heard,), name="signals", daemon=True).start()


def _keep(number: int, frame: FrameType | None) -> None:
    """Does nothing: the thread reacts."""


def _listen(heard: int) -> None:
    while numbers := os.read(heard, 16):
        for number in numbers:
            if number in SIGNALS:
                _command.react(number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr is closed
        os.write(2, f"{text}\n".encode())
