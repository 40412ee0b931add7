"""Stopping on request: SIGTERM and Ctrl-C save before the process ends."""

import signal
import threading


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

    Attributes:
        requested: True after a signal to this process. Several processes must agree first.
        number: number of the signal.
    """

    def __init__(self):
        self.requested = False
        self.number = signal.SIGTERM
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        del frame
        self.requested, self.number = True, signal.Signals(number)
        if number == signal.SIGINT:  # a second Ctrl-C ends it at once
            signal.signal(number, self._previous[number])
