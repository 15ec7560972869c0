"""Feedback on the penalty weight: what the observed violation rate does to λ.

Every controller has the same small surface: ``update(violation_rate) -> weight``, ``weight``,
``smoothed_rate``, ``updates``, ``state_dict()`` and ``load_state_dict()``. Plain floats, no tensor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

from relif_core.domains import check_domains
from relif_core.errors import InputError, RecordError, listed

__all__ = [
    "ConstantWeight",
    "Controller",
    "ProportionalIntegralController",
    "ViolationController",
    "controller_of",
]


class Controller:
    r"""What all controllers share: the smoothed violation rate and the count of updates.

    .. math:: \bar r \leftarrow r \text{ on the first update, then } a\,r + (1 - a)\,\bar r .

    *Skipped step*: a rate of ``None`` or NaN (the surrogate had no pairs) changes nothing and is not counted.

    Args:
        initial: The weight before any update, at least 0.
        ema: Weight :math:`a` in (0, 1] of the new rate in the moving average.

    Raises:
        InputError: A setting is outside its range.
    """

    def __init__(self, initial: float, ema: float) -> None:
        self.initial, self.ema = initial, ema
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the settings and take the initial state; ``InputError`` as of the class."""
        check_domains(type(self).__name__, **vars(self))
        self._weight = float(self.initial)
        self._smoothed_rate: float | None = None
        self._updates = 0

    @property
    def weight(self) -> float:
        """The present penalty weight λ."""
        return self._weight

    @property
    def smoothed_rate(self) -> float | None:
        """The moving average of the violation rate, in [0, 1]; None before the first update."""
        return self._smoothed_rate

    @property
    def updates(self) -> int:
        """How many rates were taken in; skipped steps do not count."""
        return self._updates

    def update(self, violation_rate: SupportsFloat | None) -> float:
        """Take in the violation rate of one step and return the weight for this step's loss.

        Args:
            violation_rate: In [0, 1]; None or NaN for a skipped step. A scalar tensor is read once.

        Raises:
            InputError: The rate is outside [0, 1].
        """
        rate = math.nan if violation_rate is None else float(violation_rate)
        if math.isnan(rate):
            return self._weight
        if not 0 <= rate <= 1:
            raise InputError(f"{type(self).__name__}: violation rate must lie in [0, 1], got {rate}")
        if self._smoothed_rate is None:
            self._smoothed_rate = rate
        else:
            self._smoothed_rate = self.ema * rate + (1 - self.ema) * self._smoothed_rate
        self._updates += 1
        self._weight = self._next_weight(self._smoothed_rate)
        return self._weight

    def state_dict(self) -> dict[str, float | int | None]:
        """Return the state as plain numbers (JSON keeps them exactly); settings are not part of it."""
        return {"weight": self._weight, "smoothed_rate": self._smoothed_rate, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, float | int | None]) -> None:
        """Put back what ``state_dict`` gave.

        Raises:
            RecordError: A key is missing or unknown, or a value is outside its range.
        """
        name, mine = type(self).__name__, self.state_dict()
        if set(state) != set(mine):
            raise RecordError(
                f"{name}: state has the keys {listed(sorted(state))}, expected {listed(sorted(mine))}; was it"
                " saved by another kind of controller?"
            )
        weight, rate, updates = (_number(state[key]) for key in ("weight", "smoothed_rate", "updates"))
        unset = state["smoothed_rate"] is None
        if not 0 <= weight < math.inf:
            raise RecordError(f"{name}: weight must be at least 0, got {state['weight']}")
        if not (unset or 0 <= rate <= 1):
            raise RecordError(f"{name}: smoothed rate must lie in [0, 1], got {state['smoothed_rate']}")
        if not (updates >= 0 and updates.is_integer()):
            raise RecordError(f"{name}: updates must be a whole number from 0, got {state['updates']}")
        self._weight, self._smoothed_rate, self._updates = weight, None if unset else rate, int(updates)

    def _next_weight(self, smoothed_rate: float) -> float:
        """Return the weight that follows from the smoothed rate, which already counts the present update."""
        raise NotImplementedError


class ConstantWeight(Controller):
    """The penalty weight stays what it is (the ablation with static λ; 0 is training without the penalty).

    Args:
        weight: λ, at least 0.
        ema: Weight in (0, 1] of the new rate in the moving average, which is kept for the trace only.

    Raises:
        InputError: A setting is outside its range.
    """

    def __init__(self, weight: float, ema: float = 0.1) -> None:
        super().__init__(weight, ema)

    def _next_weight(self, smoothed_rate: float) -> float:
        return self.weight


class _BoundedController(Controller):
    """A controller with a target, bounds on the weight, and a warm-up during which the weight stays."""

    target: float
    minimum: float
    maximum: float
    warmup: int

    def __post_init__(self) -> None:
        """Check the settings and take the initial state; ``InputError`` as of the class."""
        super().__post_init__()
        if not self.minimum <= self.initial <= self.maximum:
            found = f"{self.minimum}, {self.initial}, {self.maximum}"
            raise InputError(f"{type(self).__name__}: minimum <= initial <= maximum must hold, got {found}")

    def _next_weight(self, smoothed_rate: float) -> float:
        if self.updates <= self.warmup:
            return self.weight
        return min(max(self._respond(smoothed_rate - self.target), self.minimum), self.maximum)

    def _respond(self, error: float) -> float:
        """Return the weight for the error of the smoothed rate, before it is held inside the bounds."""
        raise NotImplementedError


@dataclass(eq=False)
class ViolationController(_BoundedController):
    r"""Multiplicative feedback that steers the smoothed violation rate towards a target.

    .. math::
        \lambda \leftarrow \operatorname{clip}\bigl(\lambda\,(1 + \eta(\bar r - \rho^*)),
        \lambda_{\min}, \lambda_{\max}\bigr) ,

    with the smoothed rate :math:`\bar r` of :class:`Controller`, taken in before the weight moves. Too many
    violations raise the weight. The new weight is for the loss of the same step. For small :math:`\eta` this
    is :math:`\log\lambda \leftarrow \log\lambda + \eta(\bar r - \rho^*)`, the recursion of Theorem B.5.

    Initial state: weight ``initial``, no smoothed rate, no updates. During the first ``warmup`` updates the
    rate is smoothed and the weight stays. A skipped step (None, NaN) changes nothing.

    With the default step size the weight changes by at most 0.084 % in a step, so a factor of ten takes
    thousands of steps.

    Args:
        target: :math:`\rho^*` in [0, 1].
        step_size: :math:`\eta \ge 0`.
        initial: :math:`\lambda_0`, within the bounds.
        minimum: :math:`\lambda_{\min} > 0`.
        maximum: :math:`\lambda_{\max}`.
        warmup: Updates before the weight may move.
        ema: Weight in (0, 1] of the new rate in the moving average.

    Raises:
        InputError: A setting is outside its range.
    """

    target: float = 0.16
    step_size: float = 0.001
    initial: float = 0.1
    minimum: float = 0.01
    maximum: float = 1.0
    warmup: int = 100
    ema: float = 0.1

    def _respond(self, error: float) -> float:
        return self.weight * (1 + self.step_size * error)


@dataclass(eq=False)
class ProportionalIntegralController(_BoundedController):
    r"""Proportional-integral feedback on log λ: an extension that answers faster and keeps the target.

    With the error :math:`e = \bar r - \rho^*` and the integral term :math:`I`, 0 at first,

    .. math::
        I \leftarrow \operatorname{clip}\bigl(I + K_I\,e,\ \log\tfrac{\lambda_{\min}}{\lambda_0},\
        \log\tfrac{\lambda_{\max}}{\lambda_0}\bigr), \qquad
        \lambda \leftarrow \operatorname{clip}\bigl(\lambda_0 e^{I + K_P e}, \lambda_{\min},
        \lambda_{\max}\bigr) .

    The clip of the integral term is the anti-windup: however long the weight sits at a bound, it leaves the
    bound with the first errors of the other sign. With :math:`K_P = 0` this is exactly the projected
    recursion of Theorem B.5 for the smoothed rate. Warm-up and skipped steps are as in
    :class:`ViolationController`; neither moves the integral term.

    Args:
        target: :math:`\rho^*` in [0, 1].
        proportional_gain: :math:`K_P \ge 0`.
        integral_gain: :math:`K_I \ge 0`, the counterpart of the step size.

    The other arguments are those of :class:`ViolationController`.

    Raises:
        InputError: A setting is outside its range.

    Source: Åström and Hägglund, Advanced PID Control (2006), chapter 3, for proportional-integral control and
    windup; Sohrabi et al., On PI controllers for updating Lagrange multipliers in constrained optimization
    (ICML 2024), use the same family (there on the multiplier, here on its logarithm). The published method
    has no proportional term.
    """

    target: float = 0.16
    proportional_gain: float = 1.0
    integral_gain: float = 0.001
    initial: float = 0.1
    minimum: float = 0.01
    maximum: float = 1.0
    warmup: int = 100
    ema: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings and take the initial state; ``InputError`` as of the class."""
        super().__post_init__()
        self._integral = 0.0

    @property
    def integral(self) -> float:
        """The integral term, in units of log λ."""
        return self._integral

    def state_dict(self) -> dict[str, float | int | None]:
        """Return the state as plain numbers, the integral term included."""
        return {**super().state_dict(), "integral": self._integral}

    def load_state_dict(self, state: Mapping[str, float | int | None]) -> None:
        """Put back what ``state_dict`` gave; ``RecordError`` as of :meth:`Controller.load_state_dict`."""
        integral = _number(state.get("integral"))
        if "integral" in state and not math.isfinite(integral):
            raise RecordError(f"{type(self).__name__}: integral must be finite, got {state['integral']}")
        super().load_state_dict(state)
        self._integral = integral

    def _respond(self, error: float) -> float:
        lowest, highest = math.log(self.minimum / self.initial), math.log(self.maximum / self.initial)
        self._integral = min(max(self._integral + self.integral_gain * error, lowest), highest)
        exponent = min(max(self._integral + self.proportional_gain * error, lowest), highest)
        return self.initial * math.exp(exponent)


def _number(value: Any) -> float:
    """Return a number as a float, NaN for anything else."""
    return float(value) if isinstance(value, int | float) else math.nan


def controller_of(kind: str, *, step_size: float, proportional_gain: float, **common: Any) -> Controller:
    """Return the controller that a run's settings describe.

    Args:
        kind: "constant", "proportional_integral", or another for :class:`ViolationController`.
        step_size: The integral gain of a "proportional_integral" one; a "constant" one has none.
        proportional_gain: Of a "proportional_integral" one alone.
        **common: The other fields of ``ControllerSettings``.
    """
    if kind == "constant":
        return ConstantWeight(float(common["initial"]), ema=float(common["ema"]))
    if kind == "proportional_integral":
        return ProportionalIntegralController(
            integral_gain=step_size, proportional_gain=proportional_gain, **common
        )
    return ViolationController(step_size=step_size, **common)
