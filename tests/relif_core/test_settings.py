"""Settings: defaults as released, unknown names and wrong types refused, JSON there and back."""

import numpy as np
import pytest

from relif_core.domains import DOMAINS
from relif_core.errors import InputError
from relif_core.methods import METHODS
from relif_core.record import run_key
from relif_core.settings import (
    DenseModelSettings,
    RunSettings,
    TrainingSettings,
    as_json,
    dense_settings,
    method_settings,
    settings_from,
)


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


@pytest.mark.parametrize("method", ["erm", "pcgrad+relif", *METHODS])
def test_json_round_trip(method: str) -> None:
    settings = method_settings(method, seed=3, training={"epochs": 2})
    assert settings_from(RunSettings, as_json(settings)) == settings
    assert settings.penalty == ("relif" in method or method.endswith("penalty"))


def test_equal_settings_have_one_key_however_they_are_written() -> None:
    plain = method_settings("relif", seed=3, training={"weight_decay": 0.0, "gradient_clip": 1.0})
    for zero, one, seed in ((-0.0, 1, 3.0), (0, np.float32(1), np.int64(3))):
        other = method_settings("relif", seed=seed, training={"weight_decay": zero, "gradient_clip": one})
        assert other == plain
        assert as_json(other) == as_json(plain)
        assert run_key(other, "a", "cpu") == run_key(plain, "a", "cpu")


def test_dense_settings_take_fields_and_mappings_of_fields() -> None:
    training, model = TrainingSettings(epochs=2, batch_size=4), DenseModelSettings(encoder="resnet18")
    found = dense_settings("erm", training=training, model=model)
    assert (found.training, found.model) == (training, model)


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
        ("relif_static_1", {"controller": {"initial": 0.2}}, "made of the settings .*leave these"),
        ("relif_no_alignment", {"surrogate": {"align": True}}, "made of the settings"),
        ("erm", {"balancer": "gradnorm"}, "'erm' is made of the settings .*leave these"),
        ("relif", {"penalty": False}, "'relif' is made of the settings"),
        ("relif", {"seed": "3"}, "got '3'"),
        ("relif", {"training": {"epochs": 1.5}}, "epochs=1.5 does not fit; give a whole number"),
        ("relif", {"training": 3}, "give TrainingSettings"),
        ("relif", {"model": {"hidden": True}}, "does not fit"),
        ("audit_penalty", {"surrogate": {"kind": "similar_pairs", "slope": 1.0}}, "made of the settings"),
    ],
)
def test_mistakes_are_named(method: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        method_settings(method, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"gradient_clip": -1}}, "gradient_clip must be finite and not negative, got -1"),
        ({"training": {"weight_decay": -1e-5}}, "weight_decay must be finite and not negative"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate must be positive and finite, got nan"),
        ({"training": {"learning_rate": 0}}, "learning_rate must be positive"),
        ({"training": {"learning_rate": float("inf")}}, "learning_rate must be positive and finite"),
        ({"training": {"epochs": 0}}, "epochs must be at least 1"),
        ({"training": {"batch_size": 1}}, "batch_size must be at least 2"),
        ({"training": {"patience": 0}}, "patience must be at least 1"),
        ({"training": {"maximum_hours": 0}}, "maximum_hours must be at least 1"),
        ({"training": {"minimum_improvement": -1.0}}, "minimum_improvement must be"),
        ({"model": {"hidden": 0}}, "hidden must be at least 1"),
        ({"model": {"hidden": 10**30}}, "hidden must be at least 1 and below 2"),
        ({"model": {"layers": 0}}, "layers must be at least 1"),
        ({"model": {"dropout": 1.0}}, r"dropout must lie in \[0, 1\)"),
        ({"surrogate": {"prototypes": 0}}, "prototypes must be at least 1"),
        ({"surrogate": {"huber_width": 0}}, "huber_width must be positive"),
        ({"surrogate": {"tolerance": 1.1}}, r"tolerance must lie in \[0, 1\]"),
        ({"controller": {"target": 2}}, r"target must lie in \[0, 1\]"),
        ({"controller": {"ema": 0}}, r"ema must lie in \(0, 1\]"),
        ({"controller": {"minimum": 0.5}}, "minimum <= initial <= maximum must hold, got 0.5, 0.1, 1.0"),
        ({"controller": {"warmup": -1}}, "warmup must be finite and not negative"),
        ({"audit": {"pairs": 0}}, "pairs must be at least 1"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^32\)"),
        ({"seed": 2**32}, r"seed must lie in \[0, 2\^32\)"),
        ({"surrogate": {"distance_floor": 1e300}}, r"distance_floor must lie in \[0, 1\]"),
    ],
)
def test_values_outside_their_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        method_settings("relif", **changes)


def test_every_number_among_the_settings_has_a_domain_and_every_domain_a_setting() -> None:
    parts = {**as_json(RunSettings(revision=1)), "added": {"evaluate_every": 2, "maximum_hours": 48}}
    parts["surrogate"] |= {"tolerance": 0.1, "slope": 0.2, "neighbours": 5}
    flat = [parts, *(part for part in parts.values() if isinstance(part, dict))]
    numbers = {
        name
        for part in flat
        for name, value in part.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    # What a controller and a data source call their own.
    assert DOMAINS.keys() - {"integral_gain", "first_label_hour"} == numbers - {"revision"}


def test_ranges_hold_for_settings_made_directly_and_read_back() -> None:
    with pytest.raises(InputError, match=r"TrainingSettings\.gradient_clip"):
        TrainingSettings(gradient_clip=-1.0)
    content = as_json(method_settings("relif"))
    content["training"]["learning_rate"] = -1.0
    with pytest.raises(InputError, match=r"TrainingSettings\.learning_rate"):
        settings_from(RunSettings, content)
    assert TrainingSettings(gradient_clip=0).gradient_clip == 0
    # A constant weight needs no bounds.
    assert method_settings("relif", controller={"kind": "constant", "initial": 0}).controller.initial == 0


def test_the_rows_of_the_plan_exist_by_name() -> None:
    def controller(method: str) -> tuple[str, float, float, float]:
        found = method_settings(method).controller
        return found.kind, found.step_size, found.target, found.initial

    assert controller("relif_step_size_0.05") == ("feedback", 0.05, 0.16, 0.1)
    assert controller("relif_step_size_0.05_target_0.09") == ("feedback", 0.05, 0.09, 0.1)
    static = ("relif_static_0.01", "relif_static_0.03", "relif_static", "relif_static_0.3", "relif_static_1")
    assert [controller(name)[3] for name in static] == [0.01, 0.03, 0.1, 0.3, 1.0]
    assert {controller(name)[0] for name in static} == {"constant"}
    assert not method_settings("relif_no_alignment").surrogate.align
    assert method_settings("relif_single_prototype").surrogate.prototypes == 1
    assert method_settings("audit_penalty").surrogate.kind == "audit"
    assert method_settings("similar_pairs_penalty").surrogate.kind == "similar_pairs"


def test_added_settings_leave_earlier_keys_alone() -> None:
    added = {"kind", "tolerance", "slope", "neighbours"}
    assert not added & set(as_json(method_settings("relif"))["surrogate"])
    assert {"kind", "tolerance"} <= set(as_json(method_settings("audit_penalty"))["surrogate"])
    known = "1f031671733f9f6020b4c83d862044d6394192aafd2fcfb2ddaa69120f9cbb17"
    old = method_settings("relif", seed=2, revision=1, training={"epochs": 40})
    assert run_key(old, "x", "cpu") == known
