"""The exceptions of this package: every message names the thing, the place and the mend."""

from collections.abc import Iterable


class ReliFError(Exception):
    """Base of every error that this package raises on purpose; ``status`` is the exit status of a command."""

    status = 2


class InputError(ReliFError, ValueError):
    """An argument, score array or setting that cannot be used as given."""


class DataError(ReliFError):
    """Source data or a tensor folder that is broken, incomplete or of another kind than stated."""


class RecordError(ReliFError):
    """A record or checkpoint that is damaged, or belongs to another run."""


class RunBusy(RecordError):  # noqa: N818 - a state to be told, not a fault
    """A run that another process is making just now."""


class StorageError(ReliFError):
    """A file that cannot be written: the disk is full, the place read-only or forbidden."""


class ComparabilityError(ReliFError):
    """Two audit results that were measured with different rulers."""


class DivergenceError(ReliFError):
    """Training that left the finite numbers."""

    status = 70


class RunPaused(ReliFError):  # noqa: N818 - a state to be told, not a fault
    """A run that reached its deadline: its checkpoint is saved and the next start goes on from there."""

    status = 70


def listed(items: Iterable[object], between: str = ", ") -> str:
    """Return a list for a message: at most five items, each cut at 500 characters, and how many more.

    Args:
        items: What is listed.
        between: What stands between two of them.

    >>> listed("abcdefgh"), listed([1, 2], "; ")
    ('a, b, c, d, e, and 3 more', '1; 2')
    """
    every = list(items)
    shown = [text if len(text := str(item)) <= 500 else f"{text[:499]}…" for item in every[:5]]
    return between.join(shown + [f"and {len(every) - 5} more"] * (len(every) > 5))
