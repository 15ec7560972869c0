"""The Lipschitz surrogate: a differentiable penalty on prediction gaps above representation distances."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from relif_core.domains import check_domains
from relif_core.errors import InputError

__all__ = ["LipschitzSurrogate", "SurrogateOutput", "huber", "huberized_hinge"]

QUANTILE = 0.95
"""Quantile of the step's gaps and distances that sets the scales."""

SCALE_FLOOR = 1e-4
"""Smallest gap scale and distance scale."""

VALID_SCORE = 1e-6
"""A sample is valid for a task when its score is finite and greater than this."""

SMALLEST_LENGTH = 1e-12
"""Embeddings no longer than this have no direction."""


def huber(values: Tensor, width: float) -> Tensor:
    r"""Return the Huber transform of every value, divided by its width so that its slope tends to one.

    Args:
        values: Any shape, any finite values.
        width: The width :math:`c > 0` of the quadratic part.

    Returns:
        A tensor of the same shape, not negative:
        :math:`\rho_c(u) = u^2/(2c)` for :math:`|u| \le c`, else :math:`|u| - c/2`.

    Raises:
        InputError: The width is not positive.

    Source: Huber, Robust estimation of a location parameter, Annals of Mathematical Statistics 35 (1964).
    """
    if not width > 0:
        raise InputError(f"huber: width must be positive, got {width}")
    return functional.huber_loss(values, torch.zeros_like(values), reduction="none", delta=width) / width


def huberized_hinge(margins: Tensor, width: float) -> Tensor:
    r"""Return the huberised hinge of every margin, a smooth lower bound of ``max(0, margin)``.

    Args:
        margins: Any shape, any finite values.
        width: The width :math:`\mu > 0` of the quadratic part.

    Returns:
        A tensor of the same shape: :math:`\varphi_\mu(z) = 0` for :math:`z \le 0`, :math:`z^2/(2\mu)` for
        :math:`0 < z \le \mu`, else :math:`z - \mu/2`. It equals the Huber transform of :math:`\max(0, z)`,
        and :math:`0 \le \max(0, z) - \varphi_\mu(z) \le \mu/2` (Theorem B.4).

    Raises:
        InputError: The width is not positive.
    """
    return huber(functional.relu(margins), width)


@dataclass(frozen=True)
class SurrogateOutput:
    """What one step of the surrogate gives; all four are scalar tensors on the device of the embeddings."""

    loss: Tensor
    """The penalty R, float32, not negative; 0 without gradient for a skipped step."""

    violation_rate: Tensor
    """Share of pairs with a positive margin, in [0, 1], float32, no gradient; NaN for a skipped step."""

    n_pairs: Tensor
    """Number of prototype pairs used, int64; 0 for a skipped step."""

    valid: Tensor
    """False where the step is skipped, bool."""


class LipschitzSurrogate(nn.Module):
    r"""The training penalty R on cross-task prototype pairs whose gap is large for their distance.

    The prototypes of a task are its ``prototypes`` highest valid scores (fewer where fewer are valid). For
    every pair (a, b) of prototypes of two different tasks

    .. math::
        m = \frac{\rho_c(p_i(a) - p_j(b))}{\tau} - \frac{d'(a, b)}{\kappa}, \\
        d' = \max\bigl(\tfrac12 (1 - \cos(z_a, z_b)), d_0\bigr), \\
        R = \text{mean } \varphi_\mu(m), \quad r = \text{mean } 1[m > 0].

    :math:`\tau` (``gap_scale``) and :math:`\kappa` (``distance_scale``) follow the 95th percentiles (linear
    interpolation) of :math:`|p_i(a) - p_j(b)|` and of :math:`d'` over the pairs of the step, without gradient
    and before use: the first valid step sets them, later steps move them by an exponential moving average,
    and neither falls below 1e-4. Both, and whether they are set, are buffers and travel with ``state_dict``.

    Special cases:

    - *Skipped step*: fewer than two tasks have a valid score, or a prototype's embedding, the penalty or a
      scale is not finite. The loss is 0 with zero gradient, the violation rate NaN, the buffers stay.
    - *Ties*: among equal scores the sample with the lowest index comes first.
    - *An embedding of length zero* has no direction: its cosine with anything is 0 and it gets no gradient.
    - *One sample as prototype of two tasks*: its distance is 0, raised to the floor.
    - *Evaluation mode* (``.eval()``): set scales are used as they are and no buffer changes.

    All pairs are computed in one batch in float32, outside autocast, and nothing waits for the device.

    Args:
        huber_width: Width :math:`c > 0` of the Huber transform of the gap.
        hinge_width: Width :math:`\mu > 0` of the huberised hinge.
        prototypes: Prototypes per task, at least 1.
        distance_floor: :math:`d_0 \ge 0`, the smallest distance.
        ema: Weight in (0, 1] of the new percentile in the moving average.
        align: False keeps :math:`\tau = \kappa = 1` and the buffers untouched (ablation "no align").

    Raises:
        InputError: A setting is outside its range.
    """

    gap_scale: Tensor
    distance_scale: Tensor
    initialised: Tensor

    def __init__(
        self,
        huber_width: float = 0.1,
        hinge_width: float = 0.05,
        prototypes: int = 5,
        distance_floor: float = 1e-3,
        ema: float = 0.1,
        align: bool = True,
    ) -> None:
        super().__init__()
        self.huber_width = huber_width
        self.hinge_width = hinge_width
        self.prototypes = prototypes
        self.distance_floor = distance_floor
        self.ema = ema
        self.align = align
        check_domains("LipschitzSurrogate", **vars(self))
        self.register_buffer("gap_scale", torch.ones(()))
        self.register_buffer("distance_scale", torch.ones(()))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self._cross_task: dict[tuple[int, int, torch.device], Tensor] = {}

    def forward(self, embeddings: Tensor, scores: Mapping[str, Tensor]) -> SurrogateOutput:
        """Return the penalty and the violation rate of one step and update the scales.

        Args:
            embeddings: [B, D] floating point, the shared representation of the samples of the step.
            scores: Task name -> [B] audit scores in [0, 1]; 0 (or NaN) where a sample carries no label.

        Returns:
            The penalty, violation rate, number of pairs and validity of the step.

        Raises:
            InputError: The embeddings are not two-dimensional, there is no task, or a task's scores do not
                have one entry per sample.
        """
        _check_shapes(embeddings, scores)
        with torch.autocast(embeddings.device.type, enabled=False):
            prototype_scores, chosen, usable = self._choose(scores)
            vectors, sound = _unit_vectors(functional.embedding(chosen, embeddings.float()))
            pairs = (
                usable.unsqueeze(1) & usable & self._cross_task_mask(len(scores), len(chosen), chosen.device)
            )
            count = pairs.sum()
            valid = (sound | ~usable).all() & (count > 0)

            gaps = prototype_scores.unsqueeze(1) - prototype_scores
            distances = (0.5 - 0.5 * (vectors @ vectors.T)).clamp_min(self.distance_floor)
            scaled_gaps = huber(gaps, self.huber_width)
            if self.align:
                scales = self._scales(gaps, distances, pairs, count)
                gap_scale, distance_scale = scales.unbind()
                margins = scaled_gaps / gap_scale - distances / distance_scale
            else:
                margins = scaled_gaps - distances
            margins = margins.masked_fill(~pairs, -1.0)

            loss = huberized_hinge(margins, self.hinge_width).sum() / count.clamp_min(1)
            valid = valid & loss.isfinite()
            rate = (margins > 0).sum() / count
            if self.align and self.training:
                with torch.no_grad():
                    self.gap_scale.copy_(torch.where(valid, gap_scale, self.gap_scale))
                    self.distance_scale.copy_(torch.where(valid, distance_scale, self.distance_scale))
                    self.initialised.logical_or_(valid)
            return SurrogateOutput(
                loss=loss.where(valid, 0.0),
                violation_rate=rate.where(valid, torch.nan),
                n_pairs=count * valid,
                valid=valid,
            )

    def _choose(self, scores: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prototypes' scores, sample indices and validity, each [tasks * k], task by task."""
        table = torch.stack(tuple(scores.values())).float()
        table = table.where(table.isfinite(), -1.0)
        top, order = table.sort(dim=1, descending=True, stable=True)
        top = top[:, : self.prototypes].flatten()
        return top, order[:, : self.prototypes].flatten(), top > VALID_SCORE

    def _cross_task_mask(self, tasks: int, size: int, device: torch.device) -> Tensor:
        """Return the [P, P] mask of pairs whose first prototype is of an earlier task than the second."""
        key = (tasks, size, device)
        if key not in self._cross_task:
            task = torch.arange(size, device=device) // (size // tasks)
            self._cross_task[key] = task.unsqueeze(1) < task
        return self._cross_task[key]

    @torch.no_grad()
    def _scales(self, gaps: Tensor, distances: Tensor, pairs: Tensor, count: Tensor) -> Tensor:
        """Return the gap scale and the distance scale to use in this step, [2]."""
        stored = torch.stack((self.gap_scale, self.distance_scale))
        values = torch.stack((gaps.abs(), distances)).masked_fill(~pairs, torch.inf).flatten(1)
        observed = _padded_quantile(values, count, QUANTILE)
        ema = self.ema if self.training else 0.0
        scales = torch.where(self.initialised, torch.lerp(stored, observed, ema), observed)
        # A step without pairs meets the padding; it is skipped, but must not turn into NaN gradients.
        return scales.clamp_min(SCALE_FLOOR).where(scales.isfinite(), stored)


def _padded_quantile(values: Tensor, count: Tensor, level: float) -> Tensor:
    """Return every row's linearly interpolated quantile of ``count`` finite entries, without a host read.

    ``values`` [R, N] holds infinity in the other entries; the result [R] is infinite in a row of these.
    """
    ordered = values.sort(dim=1).values
    position = (count - 1).clamp_min(0) * level
    below = position.floor()
    neighbours = torch.stack((below, position.ceil())).long()
    low, high = ordered.index_select(1, neighbours).unbind(1)
    return torch.lerp(low, high, (position - below).expand_as(low))


def _unit_vectors(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows scaled to length one and which rows were finite; rows without direction become zero."""
    with torch.no_grad():
        length = torch.linalg.vector_norm(vectors, dim=1)
        finite = length < torch.inf
        directed = (finite & (length > SMALLEST_LENGTH)).unsqueeze(1)
    # Replacing the row before the division keeps NaN and the huge slope at length zero out of the gradient.
    return functional.normalize(vectors.where(directed, 0.0), dim=1), finite


def _check_shapes(embeddings: Tensor, scores: Mapping[str, Tensor]) -> None:
    """Refuse (``InputError``) input without a task, or without one score per embedding."""
    if embeddings.ndim != 2:
        raise InputError(
            f"LipschitzSurrogate: embeddings must be [B, D], got shape {tuple(embeddings.shape)}"
        )
    if not scores:
        raise InputError("LipschitzSurrogate: scores hold no task; pass a mapping task name -> [B] scores")
    for task, values in scores.items():
        if values.shape != embeddings.shape[:1]:
            raise InputError(
                f"LipschitzSurrogate: task {task!r}: scores have shape {tuple(values.shape)}, expected "
                f"({embeddings.shape[0]},), one per embedding"
            )
