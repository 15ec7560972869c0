"""A controller's rule in scalar tensors, so that on a GPU no training step waits for the host."""

import math

import torch
from torch import Tensor

from relif_core.controller import (
    ConstantWeight,
    Controller,
    ProportionalIntegralController,
    ViolationController,
)
from relif_core.errors import InputError


class DeviceController:
    """Steers λ on a device as ``controller`` would on the host, which ``settle`` brings up to date.

    In float64 and the same order of operations, weights of :class:`ConstantWeight` and
    :class:`ViolationController` are the host's exactly; those of :class:`ProportionalIntegralController`
    differ where the device's exponential does.

    Args:
        controller: The rule and the state to start from.
        device: Where the rates are.

    Raises:
        InputError: There is no device form of the controller.
    """

    def __init__(self, controller: Controller, device: torch.device) -> None:
        if not isinstance(controller, ConstantWeight | ViolationController | ProportionalIntegralController):
            raise InputError(f"{type(controller).__name__} has no form for a device")
        self.controller = controller
        state = controller.state_dict()
        self._state = {
            name: torch.tensor(math.nan if value is None else value, dtype=torch.float64, device=device)
            for name, value in state.items()
        }
        self._trace: list[Tensor] = []

    def update(self, violation_rate: Tensor) -> Tensor:
        """Take in a step's rate (NaN: skipped) and return its loss's weight, both scalar tensors."""
        rule, state = self.controller, self._state
        rate = violation_rate.double()
        valid = ~rate.isnan()
        before = state["smoothed_rate"]
        smoothed = torch.where(before.isnan(), rate, rule.ema * rate + (1 - rule.ema) * before)
        state["smoothed_rate"] = torch.where(valid, smoothed, before)
        state["updates"] = state["updates"] + valid
        if isinstance(rule, ViolationController | ProportionalIntegralController):
            moves = valid & (state["updates"] > rule.warmup)
            error = smoothed - rule.target
            if isinstance(rule, ViolationController):
                weight = state["weight"] * (1 + rule.step_size * error)
            else:
                span = math.log(rule.minimum / rule.initial), math.log(rule.maximum / rule.initial)
                integral = (state["integral"] + rule.integral_gain * error).clamp(*span)
                state["integral"] = torch.where(moves, integral, state["integral"])
                weight = rule.initial * (integral + rule.proportional_gain * error).clamp(*span).exp()
            state["weight"] = torch.where(moves, weight.clamp(rule.minimum, rule.maximum), state["weight"])
        self._trace.append(torch.stack([state["weight"], rate, state["smoothed_rate"]]))
        return state["weight"]

    def settle(self) -> list[list[float]]:
        """Hand the host's controller this state; return weights, rates, smoothed rates since last time.

        Raises:
            InputError: A rate was outside [0, 1].
        """
        if not self._trace:
            return []
        steps = torch.stack(self._trace).tolist()
        self._trace = []
        for _, rate, _ in steps:
            if not (math.isnan(rate) or 0 <= rate <= 1):
                raise InputError(f"violation rate must lie in [0, 1], got {rate}")
        state: dict[str, float | int | None] = {
            name: None if math.isnan(value) else value
            for name, value in zip(self._state, torch.stack(list(self._state.values())).tolist(), strict=True)
        }
        self.controller.load_state_dict(state)
        return steps
