"""Whatever is wrong in a file of ours is a RecordError, never a crash later and never a person's value."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from relif_core.audit import (
    Audit,
    AuditResult,
    HistogramSketch,
    InfluenceSums,
    Ruler,
    ScoreMap,
    calibrate,
    card_html,
    compare,
)
from relif_core.errors import InputError, RecordError, ReliFError

GENERATOR = np.random.default_rng(0)
OUTPUTS = {"a": GENERATOR.random(20), "b": GENERATOR.normal(size=20), "c": GENERATOR.random(20)}
EMBEDDINGS = GENERATOR.normal(size=(20, 3))
RULES = ScoreMap(a="identity", b=("max_softmax", "b*"), c=("quantile", 0.1, 0.9))
PLAIN = ScoreMap(a="identity", b="sigmoid", c=("quantile", 0.1, 0.9)).fit(OUTPUTS)
RULER = calibrate(EMBEDDINGS, PLAIN, alpha=0.4, matchings=3)
IDS = np.arange(20) // 2
FOUND = Audit(RULER.scores(OUTPUTS), RULER, subject=IDS, group=IDS % 2)
FOUND.induce(EMBEDDINGS)
SKETCH = FOUND.histogram(16)
SUMS = FOUND.influence_sums(SKETCH)
WRONG = (None, "0.1", True, -1, float("inf"), float("nan"), 10**400, 10**20, 0, [], {}, [1], ["x"], {"a": 1})
GONE = object()


def ask(found: Audit) -> None:
    found.summary(), found.table(), found.to_json(), card_html(found.card())
    found.check(bias_below=0.1, worst_group=bool(found.result.groups))
    found.compare(FOUND), found.certificate(FOUND), found.group_difference("0", "1")


def ask_result(result: AuditResult) -> None:
    result.bias_interval(), result.violation_rate_interval(), compare(result, result)
    result.to_json(include_influences=True)


def ask_sums(sums: InfluenceSums) -> None:
    sums.spread(), sums + SUMS, SKETCH.audit(RULER.tolerance, sums)


def ask_sketch(sketch: HistogramSketch) -> None:
    sketch.audit(0.2), sketch.hide(2), sketch.to_json(), sketch + SKETCH


def ask_ruler(ruler: Ruler) -> None:
    ruler.describe(), ruler.score_map.scores(OUTPUTS), ruler.score_definition


def places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every part of JSON content, of lists to the first two items."""
    yield above
    parts = content.items() if isinstance(content, dict) else []
    for key, part in enumerate(content[:2]) if isinstance(content, list) else parts:
        yield from places(part, (*above, key))


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return None if value is GONE else value
    content = copy.deepcopy(content)
    part = content
    for key in place[:-1]:
        part = part[key]
    if value is GONE:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return content


def signed(content: Any) -> Any:
    """Give a ruler the digest that its content has, so that the content alone is wrong."""
    if isinstance(content, dict):
        held = {name: value for name, value in content.items() if name != "sha256"}
        content["sha256"] = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
    return content


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("kind", "text", "use"),
    [
        (Audit, FOUND.to_json(include_influences=True), ask),
        (AuditResult, FOUND.result.to_json(include_influences=True), ask_result),
        (InfluenceSums, SUMS.to_json(), ask_sums),
        (HistogramSketch, SKETCH.to_json(), ask_sketch),
        (Ruler, RULER.to_json(), ask_ruler),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_anywhere_is_named_or_harmless(kind: Any, text: str, use: Callable[[Any], None]) -> None:
    whole = json.loads(text)
    use(kind.from_json(text))
    refused = 0
    for place in places(whole):
        if kind is Audit and place[:1] == ("result",) and len(place) > 1:
            continue  # the result's own case
        for value in (*WRONG, GONE):
            content = changed(whole, place, value)
            try:
                use(kind.from_json(json.dumps(signed(content) if kind is Ruler else content)))
            except ReliFError as error:
                refused += isinstance(error, RecordError)
    assert refused > 100


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("bias",), "0.1", "bias is no float that this version writes"),
        (("per_pair",), [], "tasks, their samples and task pairs do not fit"),
        (("per_pair", 0, "tolerance"), 7, "tolerance of pair .* is 7.0"),
        (("effective_pairs",), 0, "numbers that no audit gives"),
        (("groups", "0", "freedom"), "5", "freedom is no float"),
        (("influences", "share"), [0.1], "share are not one per subject"),
        (("influences", "bias", 0), "p123", "bias are not one per subject"),
        (("draws",), [], "'draws' is unknown"),
        (("samples", "a"), True, "samples is no int"),
    ],
)
def test_a_damaged_result_is_refused_when_it_is_read(place: Any, value: Any, message: str) -> None:
    content = changed(FOUND.result.as_dict(include_influences=True), place, value)
    with pytest.raises(RecordError, match=f"audit result is damaged .*{message}") as raised:
        AuditResult.from_dict(content)
    assert "p123" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [({}, "'effective' holds no task"), ({"a": 0.0}, "not above 0"), ({"a": "1"}, "effective is no float")],
)
def test_influence_sums_without_a_task_are_damaged(value: Any, message: str) -> None:
    content = changed(json.loads(SUMS.to_json()), ("effective",), value)
    with pytest.raises(RecordError, match=f"influence sums are damaged .*{message}"):
        InfluenceSums.from_json(json.dumps(content))


def test_rulers_of_every_rule_are_read_back() -> None:
    wide = {**{f"b{k}": OUTPUTS["b"] for k in range(2)}, "a": OUTPUTS["a"], "c": OUTPUTS["c"]}
    for rules in (PLAIN, RULES.fit(wide)):
        ruler = calibrate(EMBEDDINGS, rules, alpha=0.4, matchings=1)
        again = Ruler.from_json(ruler.to_json())
        assert (again.sha256, again) == (ruler.sha256, Ruler(**{**vars(ruler), "score_map": again.score_map}))
        assert again.score_map.rules == rules.rules
        mixed = json.dumps(json.loads(ruler.to_json()), sort_keys=True)
        assert Ruler.from_json(mixed).sha256 == ruler.sha256


@pytest.mark.parametrize(
    ("place", "value"),
    [(("per_pair", 0, "tolerance"), 0.125), (("context", "score_definition"), "score map 0123456789abcdef")],
)
def test_a_result_of_another_ruler_is_no_audit_of_this_one(place: tuple[Any, ...], value: Any) -> None:
    """Else the file's summary would state one tolerance and the numbers of another."""
    content = changed(json.loads(FOUND.to_json()), ("result", *place), value)
    with pytest.raises(RecordError, match="with another score map or tolerance than its ruler's"):
        Audit.from_json(json.dumps(content))


def test_no_audit_is_written_that_cannot_be_read() -> None:
    for option in ("dataset", "split"):
        with pytest.raises(InputError, match=f"context field '{option}' must be text, got int"):
            Audit(RULER.scores(OUTPUTS), RULER, **{option: 2012})
