"""Task balancers: how the losses of several tasks become one update.

``BALANCERS`` maps a name to its class, whose ``title``, ``source`` and ``version`` describe it;
:func:`make_balancer` makes one. The interface is :class:`~relif_core.balancers.base.Balancer`.
"""

from typing import Any

from relif_core.balancers.base import Balancer
from relif_core.balancers.cagrad import CAGrad
from relif_core.balancers.cats import CATSAsReleased
from relif_core.balancers.erm import ERM
from relif_core.balancers.fairgrad import FairGrad, FairGradAsReleased, NashMTL
from relif_core.balancers.gradnorm import GradNorm, GradNormAsReleased
from relif_core.balancers.pcgrad import PCGrad, PCGradAsReleased
from relif_core.balancers.torchjd import IMTLG, MGDA, AlignedMTL, DualProj, UPGrad
from relif_core.balancers.uncertainty import Uncertainty, UncertaintyAsReleased
from relif_core.errors import InputError

__all__ = ["BALANCERS", "Balancer", "make_balancer"]

BALANCERS: dict[str, type[Balancer]] = {
    "erm": ERM,
    "uncertainty": Uncertainty,
    "gradnorm": GradNorm,
    "pcgrad": PCGrad,
    "fairgrad": FairGrad,
    "uncertainty_as_released": UncertaintyAsReleased,
    "gradnorm_as_released": GradNormAsReleased,
    "pcgrad_as_released": PCGradAsReleased,
    "fairgrad_as_released": FairGradAsReleased,
    "cats_as_released": CATSAsReleased,
    "nash_mtl": NashMTL,
    "cagrad": CAGrad,
    "upgrad": UPGrad,
    "mgda": MGDA,
    "imtl_g": IMTLG,
    "aligned_mtl": AlignedMTL,
    "dual_proj": DualProj,
}
"""Every balancer by name: as published first, then as released, then extra rows."""


def make_balancer(name: str, tasks: int, seed: int = 0, **options: Any) -> Balancer:
    """Return a new balancer.

    Args:
        name: a key of ``BALANCERS``.
        tasks: number of tasks T, at least 1.
        seed: seed of the balancer's own random generator.
        options: settings of this balancer (its class documents them).

    Raises:
        InputError: the name or an option is unknown, or a setting is outside its range.

    >>> make_balancer("fairgrad", tasks=4, alpha=1.0).needs_gradients
    True
    """
    if name not in BALANCERS:
        raise InputError(f"unknown balancer {name!r}; known are {', '.join(BALANCERS)}")
    try:
        return BALANCERS[name](tasks, seed, **options)
    except TypeError as error:
        raise InputError(f"balancer {name!r}: {error}") from error
