"""The audit as a penalty, and similar pairs in a task: exact, differentiable, blind without a label."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import audit
from relif_core.errors import InputError
from relif_core.penalties import AuditPenalty, SimilarPairsPenalty, make_penalty
from relif_core.settings import SurrogateSettings
from relif_core.surrogate import LipschitzSurrogate

NOTHING = torch.zeros(0, 1)


def random_scores(seed: int, tasks: int = 3, size: int = 40) -> dict[str, torch.Tensor]:
    """Return scores of which some carry no label."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(tasks, size, generator=generator) * 0.9 + 0.05
    scores[torch.rand(tasks, size, generator=generator) < 0.3] = 0
    return {f"task {index}": row for index, row in enumerate(scores)}


@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(deadline=None)
def test_the_audit_penalty_is_the_exact_audit_of_the_batch(seed: int, tolerance: float) -> None:
    scores = random_scores(seed)
    found = AuditPenalty(tolerance)(NOTHING, scores)
    exact = audit({task: row[row > 0].numpy() for task, row in scores.items()}, np.float32(tolerance).item())
    assert found.loss.item() == pytest.approx(exact.bias, abs=1e-6)
    assert found.violation_rate.item() == pytest.approx(exact.violation_rate, abs=1e-5)
    counts = [int((row > 0).sum()) for row in scores.values()]
    assert found.n_pairs == counts[0] * counts[1] + counts[0] * counts[2] + counts[1] * counts[2]


def test_the_audit_penalty_by_hand() -> None:
    high, low = torch.tensor([0.9, 0.7, 0.0], requires_grad=True), torch.tensor([0.2, 0.0, 0.5])
    found = AuditPenalty(0.3)(NOTHING, {"a": high, "b": low})
    # Gaps 0.7, 0.4, 0.5, 0.2: excesses 0.4, 0.1, 0.2, 0.
    assert found.loss.item() == pytest.approx(0.7 / 4)
    assert found.violation_rate.item() == pytest.approx(0.75)
    found.loss.backward()
    assert high.grad.tolist() == pytest.approx([0.5, 0.25, 0.0])


def test_similar_pairs_by_hand() -> None:
    features = torch.tensor([[0.0], [1.0], [3.0], [100.0]])
    scores = {"a": torch.tensor([0.1, 0.5, 0.9, 0.0], requires_grad=True)}
    found = SimilarPairsPenalty(slope=0.1, neighbours=1)(features, scores)
    # 0, 1 are mutually nearest (gap 0.4, allowed 0.1), 2's nearest is 1 (gap 0.4, allowed 0.2); 3: no label.
    assert found.loss.item() == pytest.approx((0.3 + 0.3 + 0.2) / 3)
    assert found.violation_rate == 1
    assert found.n_pairs == 3
    found.loss.backward()
    assert scores["a"].grad.tolist() == pytest.approx([-2 / 3, 1 / 3, 1 / 3, 0])


@given(st.integers(0, 10_000), st.floats(0, 2), st.integers(1, 7))
@settings(deadline=None)
def test_similar_pairs_equal_a_loop_over_all_pairs(seed: int, slope: float, neighbours: int) -> None:
    scores = random_scores(seed, tasks=2, size=12)
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = SimilarPairsPenalty(slope, neighbours)(features.float(), scores)
    per_task, rates = [], []
    for row in scores.values():
        held = [index for index in range(12) if row[index] > 0]
        excesses = []
        for a in held:
            distances = {b: float((features[a] - features[b]).norm()) / 2 for b in held if b != a}
            near = sorted(distances, key=distances.__getitem__)[:neighbours]
            excesses += [abs(float(row[a]) - float(row[b])) - slope * distances[b] for b in near]
        if excesses:
            per_task.append(np.mean(np.maximum(excesses, 0)))
            rates.append(np.mean(np.array(excesses) > 0))
    assert found.loss.item() == pytest.approx(np.mean(per_task), abs=1e-6)
    assert found.violation_rate.item() == pytest.approx(np.mean(rates), abs=1e-6)


@pytest.mark.parametrize("penalty", [AuditPenalty(0.1), SimilarPairsPenalty(0.1)])
def test_a_step_without_pairs_is_skipped(penalty: torch.nn.Module) -> None:
    scores = {"a": torch.zeros(3, requires_grad=True), "b": torch.full((3,), torch.nan)}
    found = penalty(torch.randn(3, 2), scores)
    assert (found.loss.item(), found.n_pairs.item(), found.valid.item()) == (0, 0, False)
    assert found.violation_rate.isnan()
    found.loss.backward()
    assert scores["a"].grad.tolist() == [0, 0, 0]


def test_settings_name_the_penalty() -> None:
    assert isinstance(make_penalty(SurrogateSettings()), LipschitzSurrogate)
    assert make_penalty(SurrogateSettings(prototypes=2)).prototypes == 2
    assert make_penalty(SurrogateSettings(kind="audit", tolerance=0.2)).tolerance == 0.2
    similar = make_penalty(SurrogateSettings(kind="similar_pairs", slope=0.5, neighbours=3))
    assert (similar.slope, similar.neighbours) == (0.5, 3)
    for kind, needed in (("audit", "tolerance"), ("similar_pairs", "slope")):
        with pytest.raises(InputError, match=f"needs surrogate.{needed}"):
            SurrogateSettings(kind=kind)
    for make in (
        lambda: AuditPenalty(1.5),
        lambda: SimilarPairsPenalty(-1.0),
        lambda: SimilarPairsPenalty(1.0, 0),
    ):
        with pytest.raises(InputError, match="must"):
            make()
