"""From records to published numbers: intervals as quadratic forms, tolerance by validation, policy kept."""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relif_book.evidence.audit_table import audit_record, audit_table
from relif_book.evidence.packing import load_packed, save_packed
from relif_book.evidence.publishing import publish, read_published, read_reference, write_reference
from relif_book.evidence.reporting import choose_reference_tolerance, record_card
from relif_book.evidence.result_set import result_set
from relif_core.audit import compare, conformal_tolerance
from relif_core.audit.uncertainty import interval
from relif_core.errors import InputError, RecordError
from relif_core.record import Record
from relif_core.settings import RunSettings

Small = Callable[..., RunSettings]


@pytest.fixture(scope="module")
def records(small_runs: list[Record]) -> list[Record]:
    return small_runs


def test_the_tolerance_comes_from_validation_alone(records: list[Record]) -> None:
    chosen = choose_reference_tolerance(records[0])
    assert chosen.tolerance == conformal_tolerance(records[0].arrays["calibration/distances"], chosen.alpha)
    changed = Record(
        records[0].content,
        {
            name: np.zeros_like(array) if name.startswith("score/test") else array
            for name, array in records[0].arrays.items()
        },
    )
    assert choose_reference_tolerance(changed) == chosen


def test_the_smallest_level_with_something_to_see_is_taken(records: list[Record]) -> None:
    for least in (0.0, 0.3, 1.1):
        chosen = choose_reference_tolerance(records[0], least=least)
        rates = [item["violation_rate"] for item in chosen.candidates]
        expected = next((i for i, rate in enumerate(rates) if rate >= least), len(rates) - 1)
        assert chosen.alpha == chosen.candidates[expected]["alpha"]
    tolerances = [item["tolerance"] for item in chosen.candidates]
    assert tolerances == sorted(tolerances, reverse=True)


def test_intervals_equal_those_of_the_audits(records: list[Record]) -> None:
    table = audit_table(records, 0.1)
    for row, record in enumerate(records):
        single = audit_record(record, 0.1)
        weights = np.eye(len(records))[row]
        for kind in ("bias", "violation_rate"):
            low, high = table.interval(weights, kind)
            expected = getattr(single, f"{kind}_interval")()
            np.testing.assert_allclose((low, high), expected, atol=1e-9)
    difference = compare(audit_record(records[2], 0.1), audit_record(records[0], 0.1))
    weights = np.array([-1.0, 0, 1, 0])
    error = math.sqrt(weights @ table.bias_covariance @ weights)
    assert error == pytest.approx(difference.standard_error, rel=1e-9)
    freedom = table.bias_freedom[[0, 2]].min()
    assert table.interval(weights) == pytest.approx(interval(difference.difference, error, 0.95, freedom))


def test_methods_are_compared_by_seed_and_subject(records: list[Record]) -> None:
    found = result_set("all", records, table=audit_table(records, 0.1))
    assert found.seeds("erm", "relif") == [0, 1]
    differences = found.differences("relif", "erm")
    erm, relif = (found.values(method, "bias") for method in ("erm", "relif"))
    assert differences == pytest.approx([b - a for a, b in zip(erm, relif, strict=True)])
    low, high = found.interval("relif", base="erm")
    assert low <= np.mean(differences) <= high
    assert found.certificate("erm", "relif").margin == pytest.approx(abs(np.mean(differences)))
    single = result_set("apart", records[:1] + records[3:])
    with pytest.raises(InputError, match="no seed in common"):
        single.interval("relif", base="erm")


def test_published_records_come_back(records: list[Record], tmp_path: Path) -> None:
    table = publish(records, tmp_path, exploratory=True)
    back, reference, audits = read_published(tmp_path)
    assert [record.digest() for record in back] == [record.digest() for record in records]
    assert reference == choose_reference_tolerance(records[0])
    for kind in table.kinds:
        errors = np.sqrt(np.diag(table.covariance(kind)))
        apart = np.abs(audits.covariance(kind) - table.covariance(kind))
        assert (apart <= 2e-5 * np.outer(errors, errors)).all(), kind
    assert audits.pairs == table.pairs
    once = (tmp_path / "reference.json").read_bytes()
    assert write_reference(records[1], tmp_path) == reference
    assert (tmp_path / "reference.json").read_bytes() == once


@pytest.mark.parametrize(
    "changes",
    [{"output_policy": "aggregate"}, {"dataset": "eicu", "synthetic": False}],
    ids=["data", "source"],
)
def test_nothing_personal_leaves_where_the_licence_forbids_it(
    records: list[Record], tmp_path: Path, changes: dict[str, object]
) -> None:
    closed = [
        replace(record, content={**record.content, "dataset": {**record.content["dataset"], **changes}})
        for record in records
    ]
    publish(closed, tmp_path, exploratory=True)
    back, reference, audits = read_published(tmp_path)
    for record in back:
        assert not [name for name in record.arrays if name.startswith(("score/", "sample/", "subject/"))]
        with pytest.raises(RecordError, match="holds no score arrays"):
            record.scores()
    # Tables and comparisons need nothing else.
    kept = result_set("open", records, reference, audit_table(records, audits.tolerance))
    aggregates = result_set("aggregates", back, reference, audits)
    for base in ("", "erm"):
        np.testing.assert_allclose(
            aggregates.interval("relif", base=base), kept.interval("relif", base=base), atol=1e-6
        )


def test_publishing_mistakes_are_named(records: list[Record], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="needs a finished ERM run"):
        publish(records[2:], tmp_path, exploratory=True)
    with pytest.raises(RecordError, match="is missing"):
        read_reference(tmp_path)
    publish(records, tmp_path, exploratory=True)
    content = json.loads((tmp_path / "reference.json").read_text())
    (tmp_path / "reference.json").write_text(json.dumps({**content, "fingerprint": "other"}))
    with pytest.raises(RecordError, match="chosen from other data"):
        publish(records, tmp_path, exploratory=True)
    (tmp_path / "reference.json").write_text("{}")
    with pytest.raises(RecordError, match="no reference tolerance"):
        read_reference(tmp_path)
    (tmp_path / "reference.json").write_text(json.dumps(content))
    (tmp_path / "audits.json").write_text("{}")
    with pytest.raises(RecordError, match="audit table needs"):
        read_published(tmp_path)


def test_the_card_of_a_record(records: list[Record]) -> None:
    reference = choose_reference_tolerance(records[0])
    card = record_card(records[2], reference)
    assert card["tolerance"]["values"][0]["tolerance"] == reference.tolerance
    assert "relif, seed 0" in card["model"]
    assert record_card(records[0], 0.2)["controller"] is None


def test_the_card_of_a_run_whose_worst_is_undefined_leaves_it_out(records: list[Record]) -> None:
    content = deepcopy(records[0].content)
    utility = content["result"]["utility"]["test"]
    utility |= {"worst": None, "macro": None}
    utility["tasks"]["mortality"]["score"] = None
    card = record_card(Record(content, records[0].arrays), 0.1)
    assert list(card["utility"]) == [task for task in utility["tasks"] if task != "mortality"]


def test_a_study_that_grows_has_the_table_of_one_published_at_once(
    records: list[Record], tmp_path: Path
) -> None:
    whole = publish(records, tmp_path / "whole", "study", logit_seeds=1, exploratory=True)
    first = [record for record in records if record.seed == 0]
    publish(first, tmp_path / "parts", "study", logit_seeds=1, exploratory=True)
    grown = publish(records, tmp_path / "parts", "study", logit_seeds=1, exploratory=True)
    order = [grown.keys.index(key) for key in whole.keys]
    assert grown.kinds == whole.kinds
    for kind in whole.kinds:
        np.testing.assert_allclose(getattr(grown, kind)[order], getattr(whole, kind), rtol=1e-6)
        errors = np.sqrt(np.diag(whole.covariance(kind)))
        difference = grown.covariance(kind)[np.ix_(order, order)] - whole.covariance(kind)
        assert (np.abs(difference) <= 3e-2 * np.outer(errors, errors)).all()
    folders = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "parts")]
    assert folders[0] == folders[1]
    assert publish(records, tmp_path / "parts", "study", exploratory=True).keys == grown.keys


def test_a_study_without_influences_cannot_grow(records: list[Record], tmp_path: Path) -> None:
    publish(records[:1], tmp_path, "study", exploratory=True)
    (kept,) = load_packed(tmp_path)
    without = {name: array for name, array in kept.arrays.items() if not name.startswith("influence")}
    save_packed([Record(kept.content, without)], tmp_path)
    with pytest.raises(RecordError, match="keeps no influences"):
        publish(records, tmp_path, "study", exploratory=True)
