"""The surrogate: bounds, invariances, hand-worked cases, skipped steps, state, and no reads by the host."""

import copy
import io
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from relif_core.errors import InputError
from relif_core.surrogate import LipschitzSurrogate, SurrogateOutput, huber, huberized_hinge

finite = st.floats(-1e3, 1e3)
widths = st.floats(1e-3, 10)


def random_step(
    seed: int, tasks: int = 4, batch: int = 64, width: int = 16
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return embeddings and scores; about a quarter of the scores are 0 (no label)."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(batch, width, generator=generator, requires_grad=True)
    scores = torch.rand(tasks, batch, generator=generator) * torch.linspace(0.4, 1, tasks).unsqueeze(1)
    scores = scores * (torch.rand(tasks, batch, generator=generator) > 0.25)
    return embeddings, {f"task {i}": row.clone().requires_grad_() for i, row in enumerate(scores)}


def pair_by_pair(
    embeddings: Tensor, scores: dict[str, Tensor], tau: float | None, kappa: float | None, prototypes: int = 5
) -> tuple[Tensor, float, float, float]:
    """Return loss, violation rate and scales by the definition, one pair at a time in double precision."""
    chosen: list[list[tuple[Tensor, Tensor]]] = []
    for values in scores.values():
        best = sorted(
            (i for i in range(len(values)) if values[i] > 1e-6), key=lambda i: (-values[i].item(), i)
        )
        chosen.append([(values[i].double(), embeddings[i].double()) for i in best[:prototypes]])
    gaps, distances = [], []
    for first, second in itertools.combinations(chosen, 2):
        for (p, a), (q, b) in itertools.product(first, second):
            gaps.append(p - q)
            distances.append(((1 - torch.dot(a, b) / (a.norm() * b.norm())) / 2).clamp_min(1e-3))
    tau = tau or np.quantile([abs(g.item()) for g in gaps], 0.95)
    kappa = kappa or np.quantile([d.item() for d in distances], 0.95)
    penalties, violations = [], 0
    for gap, distance in zip(gaps, distances, strict=True):
        transformed = gap**2 / 0.2 if abs(gap) <= 0.1 else abs(gap) - 0.05
        margin = transformed / tau - distance / kappa
        violations += int(margin > 0)
        penalties.append(0 * margin if margin <= 0 else margin**2 / 0.1 if margin <= 0.05 else margin - 0.025)
    return sum(penalties) / len(penalties), violations / len(penalties), tau, kappa


@given(finite, widths)
def test_huber_follows_its_definition(value: float, width: float) -> None:
    expected = value**2 / (2 * width) if abs(value) <= width else abs(value) - width / 2
    result = huber(torch.tensor(value, dtype=torch.float64), width).item()
    assert result == pytest.approx(expected, rel=1e-12, abs=1e-300)


@given(finite, widths)
def test_hinge_lies_within_half_a_width_below_the_plain_hinge(value: float, width: float) -> None:
    smooth = huberized_hinge(torch.tensor(value, dtype=torch.float64), width).item()
    assert max(0.0, value) - smooth >= -1e-12
    assert max(0.0, value) - smooth <= width / 2 + 1e-12
    if value <= 0:
        assert smooth == 0


@given(finite, finite, widths)
def test_hinge_is_monotone_and_never_steeper_than_one(first: float, second: float, width: float) -> None:
    low, high = sorted((first, second))
    rise = huberized_hinge(torch.tensor([low, high], dtype=torch.float64), width).diff()
    assert -1e-12 <= rise.item() <= high - low + 1e-9


@pytest.mark.parametrize("function", [huber, huberized_hinge])
def test_transforms_have_correct_slopes(function: Callable[[Tensor, float], Tensor]) -> None:
    values = torch.linspace(-1, 1, 41, dtype=torch.float64)[1::2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: function(v, 0.33), values)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition_pair_by_pair_over_steps(seed: int) -> None:
    surrogate = LipschitzSurrogate()
    tau = kappa = None
    for step in range(3):
        embeddings, scores = random_step(10 * seed + step, tasks=2 + seed % 3)
        output = surrogate(embeddings, scores)
        output.loss.backward()
        twin = embeddings.detach().clone().requires_grad_()
        twin_scores = {task: values.detach().clone().requires_grad_() for task, values in scores.items()}
        _, _, step_tau, step_kappa = pair_by_pair(twin, twin_scores, None, None)
        tau = step_tau if tau is None else 0.9 * tau + 0.1 * step_tau
        kappa = step_kappa if kappa is None else 0.9 * kappa + 0.1 * step_kappa
        loss, rate, _, _ = pair_by_pair(twin, twin_scores, tau, kappa)
        loss.backward()
        assert output.loss.item() == pytest.approx(loss.item(), abs=1e-6)
        assert output.violation_rate.item() == pytest.approx(rate, abs=1e-6)
        assert surrogate.gap_scale.item() == pytest.approx(tau, rel=1e-6)
        assert surrogate.distance_scale.item() == pytest.approx(kappa, rel=1e-6)
        torch.testing.assert_close(embeddings.grad, twin.grad, rtol=1e-4, atol=1e-7)
        for task in scores:
            torch.testing.assert_close(scores[task].grad, twin_scores[task].grad, rtol=1e-4, atol=1e-7)


def test_hand_worked_pair() -> None:
    """One prototype each, at right angles: d = 1/2, gap 0.6, so the margin without scales is 0.55 - 0.5."""
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    scores = {"a": torch.tensor([0.9, 0.0]), "b": torch.tensor([0.0, 0.3])}
    output = LipschitzSurrogate(align=False)(embeddings, scores)
    assert output.n_pairs == 1
    assert output.violation_rate == 1
    assert output.loss.item() == pytest.approx(0.05**2 / 0.1, rel=1e-5)


def test_first_step_sets_the_scales_and_the_aligned_margin_divides_by_them() -> None:
    """With one pair both scales are that pair's own values: m = 0.55/0.6 - 1 < 0."""
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    surrogate = LipschitzSurrogate()
    output = surrogate(embeddings, {"a": torch.tensor([0.9, 0.0]), "b": torch.tensor([0.0, 0.3])})
    assert (surrogate.gap_scale.item(), surrogate.distance_scale.item()) == pytest.approx((0.6, 0.5))
    assert (output.loss.item(), output.violation_rate.item()) == (0, 0)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_bounds_and_symmetry(seed: int, tasks: int, batch: int) -> None:
    embeddings, scores = random_step(seed, tasks, batch)
    output = LipschitzSurrogate()(embeddings, scores)
    turned = LipschitzSurrogate()(embeddings, dict(reversed(scores.items())))
    counts = [min(5, int((values > 1e-6).sum())) for values in scores.values()]
    pairs = (sum(counts) ** 2 - sum(count**2 for count in counts)) // 2
    assert output.n_pairs == pairs
    assert output.valid == (pairs > 0)
    if output.valid:
        assert 0 <= output.violation_rate <= 1
        assert output.loss >= 0
        assert (output.loss > 0) == (output.violation_rate > 0)
        assert turned.loss.item() == pytest.approx(output.loss.item(), rel=1e-5, abs=1e-7)
        assert turned.n_pairs == output.n_pairs


def test_loss_does_not_depend_on_the_length_of_embeddings() -> None:
    embeddings, scores = random_step(0)
    factors = torch.logspace(-3, 3, len(embeddings)).unsqueeze(1)
    plain = LipschitzSurrogate()(embeddings, scores).loss
    assert LipschitzSurrogate()(embeddings * factors, scores).loss.item() == pytest.approx(
        plain.item(), rel=1e-4
    )


def test_scaling_is_only_approximate_because_the_huber_transform_comes_first() -> None:
    embeddings, scores = random_step(0)
    full = LipschitzSurrogate()(embeddings, scores).loss.item()
    half = LipschitzSurrogate()(embeddings, {task: values / 2 for task, values in scores.items()}).loss.item()
    narrow = LipschitzSurrogate(huber_width=0.05)
    half_narrow = narrow(embeddings, {task: values / 2 for task, values in scores.items()}).loss.item()
    assert half != pytest.approx(full, rel=0.01)
    assert half_narrow == pytest.approx(full, rel=1e-4)


def test_ties_take_the_lowest_index() -> None:
    embeddings = torch.rand(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    scores = {"a": torch.full((6,), 0.9), "b": torch.full((6,), 0.1)}
    LipschitzSurrogate(prototypes=2, align=False)(embeddings, scores).loss.backward()
    assert (embeddings.grad[2:] == 0).all()
    assert (embeddings.grad[:2] != 0).any()


def test_shared_sample_has_the_smallest_distance() -> None:
    embeddings = torch.ones(1, 4, requires_grad=True)
    output = LipschitzSurrogate(align=False)(embeddings, {"a": torch.tensor([0.8]), "b": torch.tensor([0.3])})
    output.loss.backward()
    assert output.loss.item() == pytest.approx(0.5 - 0.05 - 1e-3 - 0.025, rel=1e-5)
    assert (embeddings.grad == 0).all()


def skipped_by(change: str) -> tuple[Tensor, dict[str, Tensor]]:
    embeddings, scores = random_step(1, tasks=3, batch=8)
    with torch.no_grad():
        if change == "one task":
            scores = {"only": scores["task 0"]}
        elif change == "one task with labels":
            for task in ("task 1", "task 2"):
                scores[task].zero_()
        elif change == "no label":
            for values in scores.values():
                values.zero_()
        elif change == "scores not finite":
            scores["task 0"].fill_(torch.nan)
            scores["task 1"].fill_(torch.inf)
        elif change == "huge scores":
            scores["task 0"].fill_(3e38)
            scores["task 1"].fill_(2e38)
        else:
            embeddings[scores["task 0"].argmax()] = float(change)
    return embeddings, scores


@pytest.mark.parametrize("initialised", [False, True])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    "change", ["one task", "one task with labels", "no label", "scores not finite", "nan", "inf", "1e38"]
)
def test_skipped_step_changes_nothing(change: str, align: bool, initialised: bool) -> None:
    surrogate = LipschitzSurrogate(align=align)
    if initialised:
        surrogate(*random_step(2))
    before = copy.deepcopy(surrogate.state_dict())
    embeddings, scores = skipped_by(change)
    output = surrogate(embeddings, scores)
    (output.loss + 0 * embeddings.detach().nan_to_num(0, 0, 0).sum()).backward()
    assert not output.valid
    assert output.loss == 0
    assert output.violation_rate.isnan()
    assert output.n_pairs == 0
    for leaf in (embeddings, *scores.values()):
        assert leaf.grad is None or (leaf.grad == 0).all()
    for name, value in surrogate.state_dict().items():
        assert torch.equal(value, before[name])


def test_bad_values_of_samples_that_are_no_prototypes_do_no_harm() -> None:
    embeddings, scores = random_step(3, tasks=2, batch=12)
    expected = LipschitzSurrogate()(embeddings, scores)
    with torch.no_grad():
        wide = torch.cat((embeddings, torch.full((2, 16), torch.nan))).requires_grad_()
        padded = {
            task: torch.cat((values, torch.tensor([0.0, torch.nan]))).requires_grad_()
            for task, values in scores.items()
        }
    output = LipschitzSurrogate()(wide, padded)
    output.loss.backward()
    assert output.loss == expected.loss
    assert output.n_pairs == expected.n_pairs
    assert wide.grad.isfinite().all()
    assert all(values.grad.isfinite().all() for values in padded.values())


@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf, -torch.inf])
def test_fewer_samples_than_prototypes_with_unusable_slots(bad: float) -> None:
    embeddings = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    embeddings[2] = torch.nan
    scores = {"a": torch.tensor([0.7, bad, bad]), "b": torch.tensor([0.2, 0.9, bad])}
    leaves = [leaf.requires_grad_() for leaf in scores.values()]
    output = LipschitzSurrogate()(embeddings, scores)
    assert output.valid
    assert output.n_pairs == 2
    output.loss.backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_zero_embedding_has_no_direction_and_no_gradient() -> None:
    embeddings = torch.zeros(2, 3)
    embeddings[1, 0] = 1
    embeddings.requires_grad_()
    output = LipschitzSurrogate(align=False)(
        embeddings, {"a": torch.tensor([0.95, 0.0]), "b": torch.tensor([0.0, 0.2])}
    )
    output.loss.backward()
    assert output.loss.item() == pytest.approx(0.75 - 0.05 - 0.5 - 0.025, rel=1e-5)
    assert (embeddings.grad[0] == 0).all()


def test_scales_have_a_floor() -> None:
    surrogate = LipschitzSurrogate(distance_floor=0.0)
    output = surrogate(torch.ones(4, 3), {"a": torch.full((4,), 0.5), "b": torch.full((4,), 0.5)})
    assert surrogate.gap_scale.item() == pytest.approx(1e-4)
    assert surrogate.distance_scale.item() == pytest.approx(1e-4)
    assert output.loss == 0


def test_without_alignment_the_buffers_stay() -> None:
    surrogate = LipschitzSurrogate(align=False)
    surrogate(*random_step(0))
    assert (surrogate.gap_scale, surrogate.distance_scale, surrogate.initialised) == (1, 1, False)


def test_single_prototype_gives_one_pair_per_task_pair() -> None:
    assert LipschitzSurrogate(prototypes=1)(*random_step(0)).n_pairs == 6


def test_evaluation_mode_uses_the_scales_and_keeps_them() -> None:
    surrogate = LipschitzSurrogate()
    surrogate(*random_step(0))
    before = copy.deepcopy(surrogate.state_dict())
    surrogate.eval()
    embeddings, scores = random_step(1)
    output = surrogate(embeddings, scores)
    expected, _, _, _ = pair_by_pair(
        embeddings, scores, surrogate.gap_scale.item(), surrogate.distance_scale.item()
    )
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in surrogate.state_dict().items())


def test_checkpoint_round_trip_continues_exactly() -> None:
    surrogate = LipschitzSurrogate()
    for step in range(3):
        surrogate(*random_step(step))
    file = io.BytesIO()
    torch.save(surrogate.state_dict(), file)
    file.seek(0)
    restored = LipschitzSurrogate()
    restored.load_state_dict(torch.load(file, weights_only=True))
    for step in range(3, 6):
        expected, result = surrogate(*random_step(step)), restored(*random_step(step))
        assert torch.equal(result.loss, expected.loss)
        assert torch.equal(restored.gap_scale, surrogate.gap_scale)
        assert torch.equal(restored.distance_scale, surrogate.distance_scale)


def test_autocast_does_not_change_the_numbers() -> None:
    embeddings, scores = random_step(0)
    plain = LipschitzSurrogate()(embeddings, scores)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = LipschitzSurrogate()(embeddings, scores)
    assert mixed.loss.dtype == torch.float32
    assert torch.equal(mixed.loss, plain.loss)


def test_half_precision_inputs_are_taken_as_their_exact_values() -> None:
    embeddings, scores = random_step(0)
    embeddings = embeddings.detach().bfloat16().requires_grad_()
    scores = {task: values.detach().bfloat16() for task, values in scores.items()}
    output = LipschitzSurrogate()(embeddings, scores)
    output.loss.backward()
    exact = LipschitzSurrogate()(
        embeddings.float(), {task: values.float() for task, values in scores.items()}
    )
    assert torch.equal(output.loss, exact.loss)
    assert embeddings.grad.dtype == torch.bfloat16


class _RefuseHostReads(TorchDispatchMode):
    """Fail on every operation whose result the host must wait for."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "tolist")

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function.overloadpacket.__name__
        assert name not in self.waiting, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


def test_one_step_makes_the_host_wait_for_nothing() -> None:
    surrogate = LipschitzSurrogate()
    embeddings, scores = random_step(0)
    with _RefuseHostReads():
        output: SurrogateOutput = surrogate(embeddings, scores)
        output.loss.backward()
        with pytest.raises(AssertionError, match="waits"):
            output.violation_rate.item()


class _CountOperations(TorchDispatchMode):
    """Count the tensor operations that run."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_work_per_step_is_the_same_few_operations_for_any_number_of_pairs() -> None:
    counts = []
    for prototypes in (2, 5, 50):
        surrogate = LipschitzSurrogate(prototypes=prototypes)
        step = random_step(0)
        surrogate(*step)
        with _CountOperations() as operations:
            surrogate(*step).loss.backward()
        counts.append(operations.count)
    assert counts[0] == counts[1] == counts[2]
    assert counts[0] < 200


@pytest.mark.parametrize("count", [1, 2, 3, 7, 25, 75, 150])
def test_scales_are_the_quantiles_of_torch(count: int) -> None:
    """One prototype against ``count`` others: gaps are known, and the quantile interpolates linearly."""
    generator = torch.Generator().manual_seed(count)
    values = torch.rand(count, generator=generator) * 0.9 + 0.05
    scores = {
        "a": torch.cat((torch.tensor([0.99]), torch.zeros(count))),
        "b": torch.cat((torch.zeros(1), values)),
    }
    surrogate = LipschitzSurrogate(prototypes=200)
    surrogate(torch.randn(count + 1, 8, generator=generator), scores)
    assert surrogate.gap_scale.item() == pytest.approx(torch.quantile(0.99 - values, 0.95).item(), abs=1e-6)


@pytest.mark.parametrize(
    "setting",
    [
        {"huber_width": 0},
        {"hinge_width": -1},
        {"prototypes": 0},
        {"distance_floor": -1e-3},
        {"ema": 0},
        {"ema": 1.1},
    ],
)
def test_bad_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        LipschitzSurrogate(**setting)


@pytest.mark.parametrize(
    ("embeddings", "scores", "message"),
    [
        (torch.ones(3), {"a": torch.ones(3)}, "embeddings"),
        (torch.ones(3, 2), {}, "no task"),
        (torch.ones(3, 2), {"a": torch.ones(3), "los": torch.ones(2)}, "'los'"),
    ],
)
def test_bad_shapes_are_named(embeddings: Tensor, scores: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LipschitzSurrogate()(embeddings, scores)


@pytest.mark.parametrize("function", [huber, huberized_hinge])
def test_width_must_be_positive(function: Callable[[Tensor, float], Tensor]) -> None:
    with pytest.raises(InputError, match="width"):
        function(torch.ones(1), 0.0)
