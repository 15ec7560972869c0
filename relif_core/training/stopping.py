"""Stopping on request: the first Ctrl-C or SIGTERM asks; what has not stopped soon after is interrupted."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

#: Seconds that a process asked to stop has for its checkpoint, and that a command waits for such processes.
GRACE, PATIENCE = 1.2, 1.6


class Stop(threading.Event):
    """An event that knows when it was set."""

    _since = math.inf

    def set(self) -> None:
        """Ask to stop; the first time counts."""
        self._since = min(self._since, time.monotonic())
        super().set()

    def clear(self) -> None:
        """Forget the request."""
        super().clear()
        self._since = math.inf

    def grace(self) -> float:
        """Return what is left of ``GRACE`` since the request, so that nobody waits for it twice."""
        return max(0.0, GRACE - max(0.0, time.monotonic() - self._since))


#: Set (by a signal handler, from any thread) to stop the runs of this process after their step in progress.
STOP = Stop()


@dataclass
class StopRequest:
    """``signal`` is the number of the signal that asked to stop; 0 where none did."""

    signal: int = 0


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Let the first Ctrl-C or SIGTERM set ``STOP``, a second or ``PATIENCE`` seconds interrupt the block.

    Raises:
        KeyboardInterrupt: The block was interrupted.
    """
    request = StopRequest()

    def note(number: int, frame: object) -> None:
        if request.signal:
            raise KeyboardInterrupt
        request.signal = number
        STOP.set()
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        STOP.clear()
