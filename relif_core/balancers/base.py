"""The one interface of all task balancers: losses and Gram matrix in, one weight per task out."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from relif_core.errors import InputError

Array = NDArray[np.float64]


class Balancer(nn.Module):
    """A map from the task losses (and the Gram matrix of their gradients) to one weight per task.

    The class attributes tell the training loop everything it needs; it never asks which balancer it holds.
    All state lives in ``state_dict``, random generators included, and is restored exactly.

    A subclass names its publication under "Source:" and documents its own arguments alone; what the released
    code of the paper under study does instead is a class of its own, "...AsReleased".

    Args:
        tasks: Number of tasks T, at least 1.
        seed: Seed of the balancer's own random generator; ignored where nothing is drawn.

    Raises:
        InputError: ``tasks`` is less than 1.
    """

    needs_gradients: bool = False
    """False: the weights depend on the losses alone, and one backward of the weighted loss serves all."""

    gradient_scope: Literal["shared", "all"] = "shared"
    """Parameters behind the Gram matrix; "all" adds each head's squared gradient norm to the diagonal."""

    weighted_heads: bool = True
    """True: head i receives its weight times its gradient; False: its plain gradient."""

    gradient_clip: float | None = None
    """Norm at which gradients are clipped, where it differs from the training default."""

    def __init__(self, tasks: int, seed: int = 0) -> None:
        super().__init__()
        self._require(tasks >= 1, f"tasks must be at least 1, got {tasks}")
        self.tasks = tasks

    def _require(self, allowed: bool, text: str) -> None:
        if not allowed:
            raise InputError(f"{type(self).__name__}: {text}")

    def _require_shape(self, what: str, values: Tensor, *shape: int) -> None:
        self._require(values.shape == shape, f"{what} shape {tuple(values.shape)}, expected {shape}")

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser groups of learned task parameters (none here), given the model's decay."""
        return []

    @torch.no_grad()
    def forward(self, losses: Tensor, gram: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """Return the weights of this step and move the balancer's state one step on.

        A task that is absent (the batch has no label of it) has weight 0; the others get what a balancer of
        these tasks would give, and what is learned or remembered of the absent one stays.

        Args:
            losses: [T] finite task losses; their graph is not used.
            gram: [T, T] inner products of the task gradients over ``gradient_scope``; needed where
                ``needs_gradients`` is true, else ignored.
            present: bool [T], False for absent tasks; None where every task is present.

        Returns:
            [T] weights without graph, in the dtype and on the device of the losses.

        Raises:
            InputError: A shape is wrong, that of the weights included, or the Gram matrix is missing.
        """
        self._require_shape("losses have", losses, self.tasks)
        losses = losses.detach()
        present = torch.ones_like(losses, dtype=torch.bool) if present is None else present
        self._require_shape("present has", present, self.tasks)
        if not self.needs_gradients:
            weights = self._weights_from_losses(losses, present)
        elif gram is None:
            raise InputError(f"{type(self).__name__}: needs the Gram matrix of the task gradients")
        else:
            self._require_shape("the Gram matrix has", gram, self.tasks, self.tasks)
            weights = self._weights_from_gram(losses, gram.detach(), present)
        self._require_shape("the weights have", weights, self.tasks)
        return weights.to(losses).where(present, 0.0)

    def _weights_from_losses(self, losses: Tensor, present: Tensor) -> Tensor:
        raise NotImplementedError

    def _weights_from_gram(self, losses: Tensor, gram: Tensor, present: Tensor) -> Tensor:
        raise NotImplementedError


class SmallMatrixBalancer(Balancer):
    """A gradient balancer that works on the T×T Gram matrix on the host in double precision (one small copy).

    Absent tasks are left out before :meth:`_solve` sees the matrix, so T is there the number of tasks
    present. Rows and columns are scaled by one common factor so that the largest diagonal entry is 1 before
    :meth:`_solve` sees them, which keeps gradients of any size within range.

    Raises:
        InputError: The Gram matrix is not finite.
    """

    needs_gradients = True
    weighted_heads = False

    def _weights_from_gram(self, losses: Tensor, gram: Tensor, present: Tensor) -> Tensor:
        *rows, last = torch.cat([gram, present.to(gram).unsqueeze(0)]).cpu().double().numpy()
        chosen = np.flatnonzero(last)
        matrix = np.stack(rows)[np.ix_(chosen, chosen)]
        self._require(bool(np.isfinite(matrix).all()), "the Gram matrix of the task gradients is not finite")
        weights = np.zeros(self.tasks)
        scale = float(matrix.diagonal().max(initial=0.0))
        if scale > 0:
            weights[chosen] = self._solve((matrix + matrix.T) / (2 * scale), scale)
        elif len(chosen):
            weights[chosen] = self._at_zero_gradients(len(chosen))
        return torch.from_numpy(weights)

    def _at_zero_gradients(self, tasks: int) -> Array:
        """Return the weights where every gradient is zero, so that no weight moves the shared parameters."""
        return np.ones(tasks)

    def _solve(self, gram: Array, scale: float) -> Array:
        """Return the weights for ``scale * gram``, where the largest diagonal entry of ``gram`` is 1."""
        raise NotImplementedError
