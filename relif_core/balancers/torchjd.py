"""Further balancers from the library torchjd, by name."""

import importlib
from typing import Any

import torch

from relif_core.balancers.base import Array, SmallMatrixBalancer
from relif_core.errors import InputError


class TorchJDBalancer(SmallMatrixBalancer):
    """The Gramian weighting of torchjd that is called as the class, times T: equal weights are all 1.

    Requires the package ``torchjd``, which is imported when the balancer is made. Heads take their own plain
    gradient. Special cases are those of the aggregator, whose documentation states them; where every gradient
    is zero all weights are 1. Only weightings without randomness and without memory are offered.

    Args:
        options: Passed to the weighting.

    Raises:
        InputError: Torchjd, or a package that this weighting needs, is not installed.
    """

    def __init__(self, tasks: int, seed: int = 0, **options: Any) -> None:
        super().__init__(tasks, seed)
        try:
            aggregation = importlib.import_module("torchjd.aggregation")
            self.weighting = getattr(aggregation, f"{type(self).__name__}Weighting")(**options)
        except ImportError as error:
            raise InputError(f"{type(self).__name__}: is not available here: {error}") from error

    def _solve(self, gram: Array, scale: float) -> Array:
        weights: torch.Tensor = self.weighting(torch.from_numpy(gram))
        return weights.numpy() * len(gram)


class UPGrad(TorchJDBalancer):
    """Every gradient projected onto the dual cone of all, then averaged.

    Source: Quinton and Rey, Jacobian descent for multi-objective optimization, 2024.
    """


class MGDA(TorchJDBalancer):
    """The shortest vector in the convex hull of the gradients.

    Source: Désidéri 2012; Sener and Koltun, Multi-task learning as multi-objective optimization, NeurIPS
        2018.
    """


class IMTLG(TorchJDBalancer):
    """The combination with equal projections onto all unit gradients; weights may be negative.

    Source: Liu et al., Towards impartial multi-task learning, ICLR 2021.
    """


class AlignedMTL(TorchJDBalancer):
    """The gradients after their principal components are brought to one scale.

    Source: Senushkin, Patakin, Kuznetsov and Konushin, Independent component alignment for multi-task
    learning, CVPR 2023.
    """


class DualProj(TorchJDBalancer):
    """The mean gradient projected onto the dual cone of all gradients.

    Source: Lopez-Paz and Ranzato, Gradient episodic memory for continual learning, NeurIPS 2017.
    """
