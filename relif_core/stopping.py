"""Stopping on request: the first Ctrl-C or SIGTERM asks; what has not stopped soon after is interrupted."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

#: Set (by a signal handler, from any thread) to stop the runs of this process after their step in progress.
STOP = threading.Event()
#: Seconds that a process asked to stop has for its checkpoint, and that a command waits for such processes.
GRACE, PATIENCE = 1.2, 1.6


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
