"""Penalties for comparison with the surrogate: the audit itself, and similar pairs within one task.

Both take the place of :class:`~relif_core.surrogate.LipschitzSurrogate` in a run: the same controller weighs
them and reads their violation rate. They keep no state.
"""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

from relif_core.domains import check_domains
from relif_core.errors import InputError
from relif_core.settings import SurrogateSettings
from relif_core.surrogate import VALID_SCORE, LipschitzSurrogate, SurrogateOutput


class AuditPenalty(nn.Module):
    r"""The paper's audit of the batch as a penalty: its exact Bias at a fixed tolerance.

    .. math:: R = \text{mean}_{i<j}\; \text{mean}_{a, b}\, (|p_i(a) - p_j(b)| - \delta)_+ , \qquad
        r = \text{mean}_{i<j}\; \text{mean}_{a, b}\, 1[|p_i(a) - p_j(b)| > \delta],

    over all samples a, b of the batch that carry a label of task i, of task j: every pair of tasks weighs the
    same, as in the audit. A step in which no two tasks have a label is skipped.

    Args:
        tolerance: :math:`\delta` in [0, 1].

    Raises:
        InputError: The tolerance is outside its range.

    Source: this project (SPEC section 15), the penalty taken literally.
    """

    needs_features = False

    def __init__(self, tolerance: float) -> None:
        super().__init__()
        check_domains("AuditPenalty", tolerance=tolerance)
        self.tolerance = tolerance

    def forward(self, embeddings: Tensor, scores: Mapping[str, Tensor]) -> SurrogateOutput:
        """Return penalty and violation rate of one step; ``embeddings`` are not read.

        Args:
            embeddings: [B, D], as the surrogate takes them.
            scores: Task name -> [B] audit scores in [0, 1]; one of 1e-6 or less, or NaN, counts as no label.
        """
        table, usable = _table(scores)
        first, second = torch.triu_indices(len(table), len(table), 1, device=table.device).unbind()
        pairs = usable[first].unsqueeze(2) & usable[second].unsqueeze(1)  # [task pairs, B, B]
        gaps = (table[first].unsqueeze(2) - table[second].unsqueeze(1)).abs()
        return _mean_excess(gaps - self.tolerance, pairs)


class SimilarPairsPenalty(nn.Module):
    r"""Individual fairness within each task: similar samples of a batch get similar scores.

    For every sample a with a label of task i and its ``neighbours`` nearest such samples b of the batch
    (fewer where there are fewer; ties in any order), by an external distance d that no training moves,

    .. math:: R = \text{mean}_i\; \text{mean}_{a, b}\, (|p_i(a) - p_i(b)| - L\,d(a, b))_+ , \qquad
        r = \text{mean}_i\; \text{mean}_{a, b}\, 1[|p_i(a) - p_i(b)| > L\,d(a, b)].

    d is the root mean square difference of the samples' ``features``: for a clinical stay the mean of its
    standardised inputs over its valid hours, for an image its 8 × 8 thumbnail.

    Simplified against SenSeI: that method searches, by an inner maximisation, for the transport of the
    samples that changes the output most while the inputs move little under a *fair metric* learned from data.
    Here the pairs are the neighbours that the batch happens to hold, the metric is a fixed one with no
    sensitive direction removed, and the output distance is that of the audit scores; L takes the place of the
    transport's budget.

    Args:
        slope: :math:`L \ge 0`.
        neighbours: At least 1.

    Raises:
        InputError: A setting is outside its range.

    Source: after Yurochkin and Sun, SenSeI: sensitive set invariance for enforcing individual fairness, ICLR
        2021.
    """

    needs_features = True

    def __init__(self, slope: float, neighbours: int = 5) -> None:
        super().__init__()
        check_domains("SimilarPairsPenalty", slope=slope, neighbours=neighbours)
        self.slope, self.neighbours = slope, neighbours

    def forward(self, features: Tensor, scores: Mapping[str, Tensor]) -> SurrogateOutput:
        """Return penalty and violation rate of one step.

        Args:
            features: [B, F], what the external distance compares.
            scores: Task name -> [B] audit scores in [0, 1]; one of 1e-6 or less, or NaN, counts as no label.
        """
        table, usable = _table(scores)
        scaled = features.float() / features.shape[1] ** 0.5
        distances = torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist")
        barred = ~(usable.unsqueeze(2) & usable.unsqueeze(1))  # [T, B, B]
        barred |= torch.eye(len(distances), dtype=torch.bool, device=distances.device)
        count = min(self.neighbours, len(distances) - 1)
        near, chosen = distances.masked_fill(barred, torch.inf).topk(count, dim=2, largest=False)
        gaps = (table.unsqueeze(2) - table.unsqueeze(1).expand_as(barred).gather(2, chosen)).abs()
        pairs = near < torch.inf
        return _mean_excess(gaps - self.slope * near.where(pairs, 0.0), pairs)


Penalty = LipschitzSurrogate | AuditPenalty | SimilarPairsPenalty


def make_penalty(settings: SurrogateSettings) -> Penalty:
    """Return the penalty that the settings name."""
    if settings.kind == "audit":
        assert settings.tolerance is not None  # the settings have checked it
        return AuditPenalty(settings.tolerance)
    if settings.kind == "similar_pairs":
        assert settings.slope is not None
        return SimilarPairsPenalty(settings.slope, settings.neighbours)
    others = ("kind", "tolerance", "slope", "neighbours")
    return LipschitzSurrogate(**{k: value for k, value in asdict(settings).items() if k not in others})


def _table(scores: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return scores [T, B] (float32) and where a sample carries a label; the others' scores are 0."""
    if not scores:
        raise InputError("scores hold no task; pass a mapping task name -> [B] scores")
    table = torch.stack(tuple(scores.values())).float()
    usable = (table > VALID_SCORE) & (table < torch.inf)
    return table.where(usable, 0.0), usable


def _mean_excess(margins: Tensor, pairs: Tensor) -> SurrogateOutput:
    """Average positive margins over each row's pairs, then over the rows [R, ...] that have any."""
    counts = pairs.flatten(1).sum(1)
    rows = (counts > 0).sum()
    share = pairs / counts.clamp_min(1).view(-1, *[1] * (pairs.dim() - 1)) / rows.clamp_min(1)
    loss, valid = (margins.relu() * share).sum(), rows > 0
    rate = ((margins > 0) * share).sum().detach().clamp(max=1.0)
    return SurrogateOutput(
        loss=loss.where(valid, 0.0),
        violation_rate=rate.where(valid, torch.nan),
        n_pairs=counts.sum(),
        valid=valid,
    )
