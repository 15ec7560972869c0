"""Settings: defaults as released, unknown names and wrong types refused, JSON there and back."""

import pytest

from relif_core.errors import InputError
from relif_core.record import run_key
from relif_core.settings import ABLATIONS, RunSettings, as_json, method_settings, settings_from


def test_released_defaults() -> None:
    settings = RunSettings()
    assert (settings.controller.target, settings.controller.step_size) == (0.16, 0.001)
    assert (settings.training.learning_rate, settings.training.batch_size) == (1e-3, 64)
    assert settings.surrogate.prototypes == 5


def test_defaults_are_those_of_the_classes_that_use_them() -> None:
    """A setting that is written down twice must not drift."""
    import inspect
    from dataclasses import asdict

    from relif_core.controller import ViolationController
    from relif_core.settings import ControllerSettings, SurrogateSettings
    from relif_core.surrogate import LipschitzSurrogate

    for kind, settings in (
        (LipschitzSurrogate, SurrogateSettings()),
        (ViolationController, ControllerSettings()),
    ):
        for name, parameter in inspect.signature(kind).parameters.items():
            assert asdict(settings)[name] == parameter.default, name


@pytest.mark.parametrize("method", ["erm", "pcgrad+relif", *ABLATIONS])
def test_json_round_trip(method: str) -> None:
    settings = method_settings(method, seed=3, training={"epochs": 2})
    assert settings_from(RunSettings, as_json(settings)) == settings
    assert settings.penalty == ("relif" in method)


def test_everything_that_matters_is_in_the_key() -> None:
    base = method_settings("relif")
    assert run_key(base, "a", "cpu") == run_key(method_settings("relif"), "a", "cpu")
    others = {
        run_key(base, "b", "cpu"),
        run_key(base, "a", "cuda"),
        run_key(method_settings("relif", seed=1), "a", "cpu"),
        run_key(method_settings("relif", controller={"target": 0.2}), "a", "cpu"),
        run_key(method_settings("relif_no_alignment"), "a", "cpu"),
    }
    assert len(others | {run_key(base, "a", "cpu")}) == 6


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("relif", {"sed": 1}, "no setting 'sed'"),
        ("relif", {"controller": {"rho": 1}}, "no setting 'rho'"),
        ("relif", {"seed": 1.5}, "does not fit"),
        ("relif", {"training": {"precision": "half"}}, "does not fit"),
        ("relif", {"training": 3}, "does not fit"),
        ("erm+static", {}, "only '\\+relif'"),
    ],
)
def test_mistakes_are_named(method: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        method_settings(method, **changes)
