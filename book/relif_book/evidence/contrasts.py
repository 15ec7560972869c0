"""Means and differences of audits over seeds, with intervals over the subjects that all seeds share."""

from collections.abc import Sequence

import numpy as np

from relif_core.audit import AuditResult
from relif_core.audit.comparison import Kind
from relif_core.audit.uncertainty import combined_error, interval
from relif_core.errors import InputError


def seed_mean(audits: Sequence[AuditResult], kind: Kind) -> tuple[float, float]:
    """Return a quantity's mean over seeds and its standard error over the draw of subjects, seeds held.

    A subject's influence on the mean is the mean of its influences.

    Args:
        audits: One per seed, of the same subjects.
        kind: The quantity.

    Raises:
        InputError: No audits, audits without subjects, or of other subjects.
    """
    shares = np.mean(influences(audits, kind), axis=0)
    return float(np.mean([getattr(found, kind) for found in audits])), float(np.linalg.norm(shares))


def seed_contrast(
    before: Sequence[AuditResult], after: Sequence[AuditResult], kind: Kind, level: float = 0.95
) -> tuple[list[float], tuple[float, float]]:
    """Return after − before per seed, and their mean's interval over the draw of subjects, paired by subject.

    Args:
        before: One audit per seed.
        after: Likewise, in the same order and of the same subjects.
        kind: The quantity.
        level: Of the interval.

    Raises:
        InputError: As :func:`seed_mean`, or the two differ in length.
    """
    if len(before) != len(after):
        raise InputError(f"{len(before)} audits against {len(after)}: a contrast pairs them seed by seed")
    shares = np.mean(influences([*before, *after], kind).reshape(2, len(before), -1), axis=1)
    differences = [getattr(b, kind) - getattr(a, kind) for a, b in zip(before, after, strict=True)]
    error, freedom = combined_error(shares[1] - shares[0], before[0].freedom)
    return differences, interval(float(np.mean(differences)), error, level, freedom)


def influences(audits: Sequence[AuditResult], kind: Kind) -> np.ndarray:
    """Return influences [audits, subjects], scaled so that inner products are covariances.

    Args:
        audits: Of the same subjects, with the same shares of their pools.
        kind: The quantity.

    Raises:
        InputError: No audits, audits without subjects, or of other subjects.
    """
    if not audits:
        raise InputError("no audit to read; run the study first")
    rows: list[np.ndarray] = []
    for found in audits:
        if found.influences is None:
            raise InputError("an audit without subjects has no interval; audit with subjects")
        if rows and not np.array_equal(found.influences.subjects, audits[0].influences.subjects):  # type: ignore[union-attr]
            raise InputError("the audits cover different subjects; put audits of the same labels together")
        rows.append(found.influences.scaled(kind))
    return np.stack(rows)
