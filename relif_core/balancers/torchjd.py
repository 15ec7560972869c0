"""Further balancers from the library torchjd, by name."""

import importlib
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from relif_core.balancers.base import SmallMatrixBalancer
from relif_core.errors import InputError


class TorchJDBalancer(SmallMatrixBalancer):
    """A Gramian weighting of torchjd, multiplied by T so that equal weighting means weight 1 for each task.

    Requires the package ``torchjd``, which is imported when the balancer is made. Heads take their own plain
    gradient. Special cases are those of the aggregator, whose documentation states them; where every gradient
    is zero all weights are 1.

    Args:
        tasks: Number of tasks T.
        seed: Not used; only weightings without randomness and without memory are offered.
        options: Passed to the weighting.

    Raises:
        InputError: Torchjd, or a package that this weighting needs, is not installed.
    """

    weighting_name: ClassVar[str]

    def __init__(self, tasks: int, seed: int = 0, **options: Any) -> None:
        super().__init__(tasks, seed)
        try:
            aggregation = importlib.import_module("torchjd.aggregation")
            self.weighting = getattr(aggregation, self.weighting_name)(**options)
        except ImportError as error:
            raise InputError(f"{type(self).__name__}: is not available here: {error}") from error

    def _solve(self, gram: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
        weights: torch.Tensor = self.weighting(torch.from_numpy(gram))
        return weights.numpy() * len(gram)


class UPGrad(TorchJDBalancer):
    """Every gradient projected onto the dual cone of all, then averaged.

    Source: Quinton and Rey, Jacobian descent for multi-objective optimization, 2024.
    """

    source = "Quinton and Rey 2024"
    weighting_name = "UPGradWeighting"


class MGDA(TorchJDBalancer):
    """The shortest vector in the convex hull of the gradients.

    Source: Désidéri 2012; Sener and Koltun, Multi-task learning as multi-objective optimization, NeurIPS
        2018.
    """

    source = "Sener and Koltun 2018"
    weighting_name = "MGDAWeighting"


class IMTLG(TorchJDBalancer):
    """The combination with equal projections onto all unit gradients; weights may be negative.

    Source: Liu et al., Towards impartial multi-task learning, ICLR 2021.
    """

    source = "Liu et al. 2021"
    weighting_name = "IMTLGWeighting"


class AlignedMTL(TorchJDBalancer):
    """The gradients after their principal components are brought to one scale.

    Source: Senushkin, Patakin, Kuznetsov and Konushin, Independent component alignment for multi-task
    learning, CVPR 2023.
    """

    source = "Senushkin, Patakin, Kuznetsov and Konushin 2023"
    weighting_name = "AlignedMTLWeighting"


class DualProj(TorchJDBalancer):
    """The mean gradient projected onto the dual cone of all gradients.

    Source: Lopez-Paz and Ranzato, Gradient episodic memory for continual learning, NeurIPS 2017.
    """

    source = "Lopez-Paz and Ranzato 2017"
    weighting_name = "DualProjWeighting"
