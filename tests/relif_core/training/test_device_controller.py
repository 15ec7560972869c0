"""λ on the device: the host controller's weights, without the host."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relif_core.controller import (
    ConstantWeight,
    Controller,
    ProportionalIntegralController,
    ViolationController,
)
from relif_core.errors import InputError
from relif_core.training.device_controller import DeviceController

RULES = {
    "constant": lambda: ConstantWeight(0.3),
    "feedback": lambda: ViolationController(step_size=0.4, warmup=3),
    "proportional_integral": lambda: ProportionalIntegralController(integral_gain=0.2, warmup=2),
}
RATES = st.lists(st.one_of(st.just(math.nan), st.floats(0, 1, width=32)), max_size=30)


@pytest.mark.parametrize("kind", RULES)
@given(first=RATES, second=RATES)
def test_every_step_is_the_hosts(kind: str, first: list[float], second: list[float]) -> None:
    host, own = RULES[kind](), RULES[kind]()
    exact = 0.0 if kind != "proportional_integral" else 1e-12
    device = DeviceController(own, torch.device("cpu"))
    for rates in (first, second):
        weights = [(host.update(rate), device.update(torch.tensor(rate)).item()) for rate in rates]
        assert all(ours == pytest.approx(theirs, rel=exact, abs=0) for theirs, ours in weights)
        steps = device.settle()
        assert [step[0] for step in steps] == [ours for _, ours in weights]
        assert [step[1] for step in steps] == pytest.approx(rates, nan_ok=True)
        for name, value in host.state_dict().items():
            assert own.state_dict()[name] == (value and pytest.approx(value, rel=exact, abs=0))
        device = DeviceController(own, torch.device("cpu"))  # as after a resume


def test_what_has_no_device_form_and_what_is_no_rate_is_refused() -> None:
    class Other(Controller):
        pass

    with pytest.raises(InputError, match="Other has no form"):
        DeviceController(Other(0.1, 0.1), torch.device("cpu"))
    device = DeviceController(ViolationController(), torch.device("cpu"))
    device.update(torch.tensor(1.5))
    with pytest.raises(InputError, match=r"\[0, 1\], got 1.5"):
        device.settle()
