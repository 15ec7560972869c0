"""Results keep what they say through JSON, hold subgroups, and become audit cards."""

import json
import math
from typing import Any

import jsonschema
import numpy as np
import pytest
from matplotlib.figure import Figure

from relif_core.audit import (
    CARD_SCHEMA,
    AuditContext,
    AuditResult,
    audit,
    audit_card,
    bias_curve,
    card_html,
    card_markdown,
)
from relif_core.errors import InputError, RecordError

GENERATOR = np.random.default_rng(0)
SCORES = {task: GENERATOR.random(50) for task in ("mortality", "length <of> stay", "x|y")}
SUBJECTS = {task: np.arange(50) // 2 for task in SCORES}
GROUPS = {task: np.where(np.arange(50) < 30, "female", "male") for task in SCORES}
CONTEXT = AuditContext(dataset="simulated <cohort>", split="test", score_definition="probability")


def measured(**options: Any) -> AuditResult:
    return audit(SCORES, 0.275, **{"subjects": SUBJECTS, "groups": GROUPS, "context": CONTEXT, **options})


@pytest.mark.parametrize("protocol", ["exact", "sampled"])
def test_json_round_trip(protocol: str) -> None:
    result = measured(protocol=protocol)
    found = AuditResult.from_json(result.to_json())
    assert found == result
    assert found.influences is None
    assert "influences" in json.loads(result.to_json())
    whole = AuditResult.from_json(result.to_json(include_influences=True))
    assert whole.influences is not None
    assert result.influences is not None
    assert (whole.influences.bias == result.influences.bias).all()
    assert (whole.influences.subjects == result.influences.subjects).all()


def test_missing_standard_error_survives_json() -> None:
    result = audit({"a": [0.1], "b": [0.9, 0.8]}, 0.2)
    found = AuditResult.from_json(result.to_json())
    assert math.isnan(found.bias_se)
    assert math.isnan(found.per_pair[0].bias_se)
    assert found.bias == result.bias


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "schema 'list'"),
        ("{}", "schema None"),
        ('{"schema": "relif-audit/9"}', "schema 'relif-audit/9'"),
        ('{"schema": "relif-audit/2"}', "damaged"),
    ],
)
def test_broken_json(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        AuditResult.from_json(text)


def test_unknown_field_is_refused() -> None:
    content = measured().as_dict()
    with pytest.raises(RecordError, match="damaged"):
        AuditResult.from_dict({**content, "surprise": 1})


def test_group_missing_from_a_task_is_named_not_dropped() -> None:
    groups = {**GROUPS, "mortality": np.full(50, "female")}
    result = measured(groups=groups)
    assert list(result.groups) == ["female"]
    assert result.groups_left_out == {"male": "no sample in the pools of mortality"}
    assert AuditResult.from_json(result.to_json()) == result


def test_averages_weigh_task_pairs_equally() -> None:
    result = measured()
    assert result.bias == pytest.approx(np.mean([row.bias for row in result.per_pair]))
    assert result.violation_rate == pytest.approx(np.mean([row.violation_rate for row in result.per_pair]))
    assert result.tolerances == dict.fromkeys(result.tolerances, 0.275)
    assert len(result.per_pair) == 3


@pytest.mark.parametrize("protocol", ["exact", "sampled"])
def test_card_satisfies_its_schema_and_renders(protocol: str) -> None:
    result = measured(protocol=protocol)
    card = audit_card(
        result,
        model="ReLiF, seed 1",
        calibration="validation subjects",
        induced={("mortality", "x|y"): 0.2},
        utility={"worst": 0.81},
        controller={"target": 0.16, "step_size": 0.001},
    )
    jsonschema.Draft202012Validator.check_schema(CARD_SCHEMA)
    jsonschema.validate(json.loads(json.dumps(card)), CARD_SCHEMA)
    assert card["results"]["bias"]["interval"] == list(result.bias_interval())
    page, text = card_html(card), card_markdown(card)
    for rendering in (page, text):
        assert f"{result.bias:.4f}" in rendering
        assert "&lt;cohort&gt;" in rendering
        assert "<cohort>" not in rendering
        assert "Group female" in rendering
    assert "http" not in page
    assert "x\\|y" in text


def test_bare_card_says_what_is_not_stated() -> None:
    card = audit_card(audit({"a": [0.1], "b": [0.9]}, 0.2), model="m")
    jsonschema.validate(card, CARD_SCHEMA)
    assert card_markdown(card).count("not stated") == 9
    assert "no interval" in card_html(card)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ruler": "r.json"}, "ruler must be a Ruler, not a str"),
        ({"curve": 5}, "curve must be a BiasCurve, not a int"),
        ({"date": 5}, "date must be text, not a int"),
        ({"calibration": 5}, "calibration must be text, not a int"),
        ({"induced": {("x|y", "x|y"): 0.2}}, "tolerance names .*, which is no pair"),
        ({"induced": {("a", "b"): 0.2, ("b", "a"): 0.2}}, "tolerance names the pair .* twice"),
    ],
)
def test_card_names_arguments_of_another_kind(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        audit_card(measured(), model="m", **options)


def test_card_refuses_what_json_cannot_hold() -> None:
    result = measured()
    with pytest.raises(InputError, match="JSON"):
        audit_card(result, model="m", utility={"worst": math.nan})
    with pytest.raises(InputError, match="JSON"):
        audit_card(result, model="m", controller={"step": object()})


def test_a_curve_of_any_order_is_drawn_from_left_to_right() -> None:
    given = bias_curve(SCORES, [0.5, 0.1, 0.275])
    drawn = bias_curve(SCORES, [0.1, 0.275, 0.5])
    assert given.lists() == drawn.lists()
    pages = [card_html(audit_card(measured(), model="m", curve=curve)) for curve in (given, drawn)]
    assert pages[0] == pages[1]
    assert "At 0.275, next to the one held fixed" in pages[0]
    for line in given.plot(Figure().subplots()).lines:
        assert line.get_xdata().tolist() == [0.1, 0.275, 0.5]


def test_a_curve_marks_no_tolerance_that_no_pair_was_held_at() -> None:
    curve = bias_curve(SCORES, [0.0, 0.2, 0.4])
    tolerances = dict(zip(measured().tolerances, (0.1, 0.2, 0.3), strict=True))
    for tolerance in (tolerances, 0.5):
        page = card_html(audit_card(audit(SCORES, tolerance), model="m", curve=curve))
        assert "polyline" in page
        assert "held fixed," not in page.partition("<svg")[2]


def test_a_row_of_a_card_is_one_line() -> None:
    text = card_markdown(audit_card(measured(), model="a\rb\r\nc\u2028d"))
    assert "| Model | a b c d |" in text
