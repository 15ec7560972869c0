"""Controllers: bounds, warm-up, monotone response, skipped steps, state, and the stability bound."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relif_core.controller import (
    ConstantWeight,
    Controller,
    ProportionalIntegralController,
    ViolationController,
)
from relif_core.errors import InputError, RecordError

rates = st.lists(st.floats(0, 1), min_size=1, max_size=80)
KINDS = [ViolationController, ProportionalIntegralController]


def make(kind: type[Controller]) -> Controller:
    return kind(0.3) if kind is ConstantWeight else kind(warmup=3)


@pytest.mark.parametrize("kind", KINDS)
@given(
    rates=rates,
    target=st.floats(0, 1),
    gain=st.floats(0, 50),
    bounds=st.tuples(*[st.floats(1e-4, 10)] * 3).map(sorted),
    warmup=st.integers(0, 20),
)
def test_weight_stays_in_bounds_and_still_during_warmup(
    kind: type, rates: list[float], target: float, gain: float, bounds: list[float], warmup: int
) -> None:
    minimum, initial, maximum = bounds
    gains = (
        {"step_size": gain}
        if kind is ViolationController
        else {"integral_gain": gain, "proportional_gain": gain}
    )
    controller = kind(target, **gains, initial=initial, minimum=minimum, maximum=maximum, warmup=warmup)
    for number, rate in enumerate(rates, start=1):
        weight = controller.update(rate)
        assert weight == controller.weight
        assert minimum * (1 - 1e-12) <= weight <= maximum * (1 + 1e-12)
        if number <= warmup:
            assert weight == initial
        assert 0 <= controller.smoothed_rate <= 1
    assert controller.updates == len(rates)


@pytest.mark.parametrize("kind", KINDS)
@given(rates=rates, more=st.lists(st.floats(0, 1), min_size=80, max_size=80))
def test_more_violations_never_give_a_smaller_weight(
    kind: type, rates: list[float], more: list[float]
) -> None:
    low, high = kind(warmup=5), kind(warmup=5)
    for rate, extra in zip(rates, more, strict=False):
        assert low.update(rate) <= high.update(max(rate, extra)) + 1e-15


@given(rates)
def test_smoothed_rate_is_the_moving_average(rates: list[float]) -> None:
    controller = ViolationController()
    for rate in rates:
        controller.update(rate)
    n = len(rates)
    weights = [0.9 ** (n - 1)] + [0.1 * 0.9 ** (n - 1 - k) for k in range(1, n)]
    assert controller.smoothed_rate == pytest.approx(float(np.dot(weights, rates)), abs=1e-12)


def test_hand_worked_steps() -> None:
    controller = ViolationController(target=0.2, step_size=0.5, initial=0.1, warmup=1)
    assert (controller.weight, controller.smoothed_rate) == (0.1, None)
    assert controller.update(0.4) == 0.1
    assert controller.update(0.9) == pytest.approx(0.1 * (1 + 0.5 * (0.45 - 0.2)), abs=1e-15)


def test_a_factor_of_ten_takes_thousands_of_steps_by_default() -> None:
    controller = ViolationController()
    steps = 0
    while controller.weight < 1.0:
        controller.update(1.0)
        steps += 1
    assert steps == pytest.approx(100 + math.log(10) / math.log(1.00084), abs=1)


@pytest.mark.parametrize("kind", [*KINDS, ConstantWeight])
@pytest.mark.parametrize("skipped", [None, math.nan, np.float32("nan")])
def test_skipped_step_changes_nothing(kind: type, skipped: float | None) -> None:
    controller = make(kind)
    assert controller.update(skipped) == controller.weight
    assert controller.smoothed_rate is None
    for rate in (0.5, 0.7, 0.1, 0.9, 0.9):
        controller.update(rate)
    before = controller.state_dict()
    assert controller.update(skipped) == controller.weight
    assert controller.state_dict() == before


@pytest.mark.parametrize("kind", [*KINDS, ConstantWeight])
def test_state_survives_json_exactly(kind: type) -> None:
    draws = np.random.default_rng(0).random(60)
    controller, restored = make(kind), make(kind)
    restored.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    assert restored.state_dict() == controller.state_dict()
    for rate in draws[:40]:
        controller.update(rate)
    restored.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    for rate in draws[40:]:
        assert restored.update(rate) == controller.update(rate)
    assert restored.state_dict() == controller.state_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"weight": math.nan},
        {"weight": None},
        {"smoothed_rate": 2.0},
        {"updates": -1},
        {"updates": 1.5},
        {"updates": math.nan},
        {"updates": math.inf},
        {"updates": "3"},
        {"weight": "0.1"},
        {"smoothed_rate": "0.1"},
        {"integral": "0"},
        {"integral": math.inf},
        {"integral": None},
        {"unknown": 1.0},
    ],
)
def test_damaged_state_is_refused_and_leaves_the_controller_alone(change: dict[str, float]) -> None:
    controller = ProportionalIntegralController()
    state = controller.state_dict()
    with pytest.raises(RecordError, match="ProportionalIntegralController"):
        controller.load_state_dict({**state, **change})
    assert controller.state_dict() == state


def test_state_of_another_kind_is_refused() -> None:
    with pytest.raises(RecordError, match="another kind"):
        ViolationController().load_state_dict(ProportionalIntegralController().state_dict())
    with pytest.raises(RecordError, match="another kind"):
        ProportionalIntegralController().load_state_dict(ViolationController().state_dict())


def test_constant_weight_only_watches() -> None:
    controller = ConstantWeight(0.3)
    assert [controller.update(rate) for rate in (1.0, 0.0, 0.0)] == [0.3] * 3
    assert controller.smoothed_rate == pytest.approx(0.81)
    assert ConstantWeight(0.0).update(0.5) == 0


def test_proportional_integral_without_proportional_part_is_the_projected_log_recursion() -> None:
    controller = ProportionalIntegralController(proportional_gain=0, integral_gain=0.3, warmup=0)
    u, smoothed = math.log(0.1), None
    for rate in np.random.default_rng(1).random(300) ** 2:
        smoothed = rate if smoothed is None else 0.1 * rate + 0.9 * smoothed
        u = min(max(u + 0.3 * (smoothed - 0.16), math.log(0.01)), math.log(1.0))
        assert controller.update(rate) == pytest.approx(math.exp(u), rel=1e-9)


def test_integral_term_does_not_wind_up() -> None:
    controller = ProportionalIntegralController(proportional_gain=0.5, integral_gain=0.1, warmup=0, ema=1.0)
    for _ in range(10_000):
        controller.update(1.0)
    assert controller.weight == pytest.approx(1.0)
    assert controller.integral == pytest.approx(math.log(10))
    assert controller.update(0.0) < 1.0


def test_proportional_part_answers_faster() -> None:
    slow, fast = ViolationController(warmup=0), ProportionalIntegralController(warmup=0)
    for _ in range(20):
        slow.update(0.5)
        fast.update(0.5)
    assert fast.weight / 0.1 > 1.3 > slow.weight / 0.1


def test_mean_squared_error_respects_the_local_stability_bound() -> None:
    """Theorem B.5 on a linear response r(u) = target - m (u - u*), where L = m, with uniform noise."""
    slope, step, target, spread = 0.15, 0.4, 0.4, 0.1
    goal, minimum, maximum = math.log(0.1), math.log(0.01), math.log(1.0)
    variance = spread**2 / 3
    contraction = (1 - step * slope) ** 2
    generator = np.random.default_rng(2)
    start = math.log(0.5)
    squared = np.zeros(120)
    runs = 600
    for _ in range(runs):
        controller = ProportionalIntegralController(
            target, 0.0, step, initial=0.5, minimum=0.01, maximum=1.0, warmup=0, ema=1.0
        )
        for t in range(len(squared)):
            u = math.log(controller.weight)
            rate = target - slope * (u - goal) + generator.uniform(-spread, spread)
            assert 0 <= rate <= 1
            squared[t] += (math.log(controller.update(rate)) - goal) ** 2 / runs
    t = np.arange(1, len(squared) + 1)
    floor = step**2 * variance * (1 - contraction**t) / (1 - contraction)
    bound = contraction**t * (start - goal) ** 2 + floor
    assert minimum < goal < maximum
    assert (squared <= bound * 1.25).all()
    assert squared[-40:].mean() == pytest.approx(step**2 * variance / (1 - contraction), rel=0.15)


@pytest.mark.parametrize("rate", [-0.01, 1.01, math.inf, -math.inf])
def test_rate_outside_its_range_is_an_error(rate: float) -> None:
    with pytest.raises(InputError, match="violation rate"):
        ViolationController().update(rate)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (ViolationController, {"target": 1.5}),
        (ViolationController, {"step_size": -1}),
        (ViolationController, {"initial": 2.0}),
        (ViolationController, {"minimum": 0.0}),
        (ViolationController, {"maximum": math.inf}),
        (ViolationController, {"warmup": -1}),
        (ViolationController, {"ema": 0}),
        (ProportionalIntegralController, {"integral_gain": math.nan}),
        (ProportionalIntegralController, {"proportional_gain": -1}),
        (ConstantWeight, {"weight": -0.1}),
        (ConstantWeight, {"weight": math.nan}),
    ],
)
def test_bad_settings_are_refused(kind: type, setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match=kind.__name__):
        kind(**setting)
