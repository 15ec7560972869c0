"""Arrays of every kind are audited as the NumPy arrays they stand for; nothing missing becomes a person."""

import contextlib
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from relif_core import audit as public
from relif_core.audit import (
    Audit,
    ScoreMap,
    audit,
    bias_curve,
    calibrate,
    compare,
    induced_tolerances,
    reference_distances,
)
from relif_core.errors import ReliFError

GENERATOR = np.random.default_rng(0)
# Quarters and eighths: exact in every floating format.
SCORES = {task: GENERATOR.integers(0, 65, 40) / 64 for task in ("mortality", "stay")}
IDS = np.array([f"p{k // 2}" for k in range(40)])
WARDS = np.where(np.arange(40) % 3 == 0, "a", "b")
PLAIN = audit(SCORES, 0.25, subjects=dict.fromkeys(SCORES, IDS), groups=dict.fromkeys(SCORES, WARDS))

KINDS: dict[str, tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray], Any]]] = {
    "lists": (np.ndarray.tolist, np.ndarray.tolist),
    "float16": (lambda x: x.astype(np.float16), lambda x: x.astype(object)),
    "pandas": (pd.Series, pd.Series),
    "pandas nullable": (lambda x: pd.Series(x, dtype="Float64"), lambda x: pd.Series(x, dtype="string")),
    "pandas pyarrow": (
        lambda x: pd.Series(x, dtype="double[pyarrow]"),
        lambda x: pd.Series(x, dtype="string[pyarrow]"),
    ),
    "NumPy text": (lambda x: x, lambda x: x.astype(np.dtypes.StringDType())),
    "pandas categories": (lambda x: pd.Series(x, dtype=object), lambda x: pd.Series(x, dtype="category")),
    "pandas arrays": (lambda x: pd.array(x, dtype="Float64"), pd.Categorical),
    "pandas sparse": (lambda x: pd.Series(x, dtype=pd.SparseDtype(float)), pd.Index),
    "pyarrow": (pa.array, pa.array),
    "decimals": (lambda x: [Decimal(str(value)) for value in x], np.ndarray.tolist),
    "fractions": (lambda x: [Fraction(value) for value in x], np.ndarray.tolist),
    "polars decimals": (
        lambda x: pl.Series(x).cast(pl.Decimal(8, 6)),
        lambda x: pl.Series(x, dtype=pl.Enum(np.unique(x).tolist())),
    ),
    "big-endian": (lambda x: x.astype(">f4"), lambda x: x.astype(">U3")),
    "every other entry": (lambda x: np.repeat(x, 2)[::2], lambda x: np.repeat(x, 3)[::3]),
    "polars": (pl.Series, pl.Series),
    "polars categories": (pl.Series, lambda x: pl.Series(x, dtype=pl.Categorical)),
    "torch": (lambda x: torch.tensor(x, requires_grad=True), lambda x: x),
    "torch bfloat16": (lambda x: torch.tensor(x, dtype=torch.bfloat16, requires_grad=True), lambda x: x),
    "masked": (
        lambda x: np.ma.array(np.append(x, np.nan), mask=np.append(np.zeros(40, bool), True)),
        lambda x: np.ma.array(np.append(x, "nan"), mask=np.append(np.zeros(40, bool), True)),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array_is_audited_alike(kind: str) -> None:
    of_scores, of_labels = KINDS[kind]
    if kind == "torch bfloat16":
        assert (np.array(list(SCORES.values())) * 64 % 1 == 0).all()
    scores = {task: of_scores(values) for task, values in SCORES.items()}
    found = audit(
        scores,
        0.25,
        subjects={task: of_labels(IDS) for task in SCORES},
        groups={task: of_labels(WARDS) for task in SCORES},
    )
    assert found == PLAIN
    assert (bias_curve(scores, [0.1, 0.2]).bias == bias_curve(SCORES, [0.1, 0.2]).bias).all()


def test_a_tensor_on_a_gpu_is_read() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert (
        audit({task: torch.tensor(values).cuda() for task, values in SCORES.items()}, 0.25).bias == PLAIN.bias
    )


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_a_frame_is_its_columns_and_an_empty_cell_is_in_no_pool(library: Any) -> None:
    holes = {task: values.tolist() for task, values in SCORES.items()}
    holes["stay"][3] = holes["mortality"][7] = None
    frame = library.DataFrame({"patient": IDS, **holes, "ward": WARDS})
    kept = {task: np.array([value is not None for value in values]) for task, values in holes.items()}
    expected = audit(
        {task: SCORES[task][kept[task]] for task in SCORES},
        0.25,
        subjects={task: IDS[kept[task]] for task in SCORES},
        groups={task: WARDS[kept[task]] for task in SCORES},
    )
    assert audit(frame, 0.25, subjects="patient", groups="ward") == expected
    scores = frame[["mortality", "stay"]]
    rows = audit(scores, 0.25)
    assert rows.clustered_by == "subject"
    assert rows.clusters == 40
    assert audit(scores, 0.25, subjects=IDS) == audit(scores, 0.25, subjects=dict.fromkeys(SCORES, IDS))
    with pytest.raises(ReliFError, match="task 'patient': scores must be real numbers"):
        audit(frame, 0.25)
    with pytest.raises(ReliFError, match="the frame has no column 'person'"):
        audit(frame, 0.25, subjects="person")


def test_series_align_by_index_or_are_refused() -> None:
    order = np.random.default_rng(1).permutation(40)
    scores = {task: pd.Series(values) for task, values in SCORES.items()}
    shuffled = {
        name: dict.fromkeys(SCORES, pd.Series(own).iloc[order]) for name, own in (("i", IDS), ("w", WARDS))
    }
    assert audit(scores, 0.25, subjects=shuffled["i"], groups=shuffled["w"]) == PLAIN
    longer = pd.Series([*IDS, "more"])
    assert audit(scores, 0.25, subjects=dict.fromkeys(SCORES, longer)).bias_se == PLAIN.bias_se
    other = pd.Series(IDS, index=range(1, 41))
    with pytest.raises(ReliFError, match="1 of 40 scores have an index entry that subjects lack"):
        audit(scores, 0.25, subjects=dict.fromkeys(SCORES, other))
    with pytest.raises(ReliFError, match="different indices with repeated entries"):
        audit(scores, 0.25, subjects=dict.fromkeys(SCORES, pd.Series(IDS, index=[0] * 40)))


def test_rows_of_one_index_belong_together_in_every_function() -> None:
    order = np.random.default_rng(2).permutation(40)
    frame, ids = pd.DataFrame(EMBEDDINGS["stay"]), pd.Series(IDS).iloc[order]
    assert (reference_distances(frame, ids, 3) == reference_distances(frame, IDS, 3)).all()
    score_map = ScoreMap(**dict.fromkeys(SCORES, "identity"))
    ruler = calibrate(frame, score_map, subject=ids, alpha=0.6, matchings=3)
    assert ruler == calibrate(frame, score_map, subject=IDS, alpha=0.6, matchings=3)
    table = pd.DataFrame({**SCORES, "patient": IDS})
    plain, found = (Audit(ruler.scores(table), ruler, subject=own) for own in ("patient", ids))
    assert found.result == plain.result
    assert found.induce(frame.iloc[order]) == induced_tolerances(EMBEDDINGS | {"mortality": frame}, SCORES)
    assert audit(ruler.scores(table), 0.25, subjects=dict.fromkeys(SCORES, ids)).bias_se == PLAIN.bias_se
    pairs = public.similar_pairs({"stay": frame}, subjects={"stay": ids}, k=2)
    same = public.similar_pairs({"stay": frame}, subjects={"stay": IDS}, k=2)
    assert (pairs.pairs["stay"][1] == same.pairs["stay"][1]).all()
    mapped = ScoreMap(stay="identity").scores(table.iloc[order])
    for scores in ({"stay": pd.Series(SCORES["stay"]).iloc[order]}, mapped):
        with pytest.raises(ReliFError, match="task 'stay': the scores have another index than the inputs"):
            public.similar_pair_audit(scores, pairs, 0.1)
    with pytest.raises(ReliFError, match="1 of 40 embeddings have an index entry that subjects lack"):
        reference_distances(frame, pd.Series(IDS, index=range(1, 41)), 3)
    logits = {"l0": pd.Series([0.0, 9.0]), "l1": pd.Series([9.0, 0.0], index=[1, 0])}
    assert ScoreMap(l=("max_softmax", "l*")).scores(logits)["l"].tolist() == [0.5, 0.5]


def test_ids_that_no_encoding_holds_are_ids() -> None:
    names = [f"scan\udce9{k // 2}" for k in range(40)]
    assert audit(SCORES, 0.25, subjects=dict.fromkeys(SCORES, names)).bias_se == PLAIN.bias_se


@pytest.mark.parametrize(
    "labels",
    [
        pd.Series([*IDS[:-1], None]),
        pd.Series([*range(39), None], dtype="Int64"),
        pd.array([*range(39), None], dtype="Int64"),
        pd.Categorical([*IDS[:-1], None]),
        pd.Index([*IDS[:-1], None]),
        pl.Series([*IDS[:-1].tolist(), None]),
        [*IDS[:-1].tolist(), float("nan")],
        np.array([*IDS[:-1], "nan"]),
        np.array([*IDS[:-1], ""]),
        np.array([*IDS[:-1], None], dtype=np.dtypes.StringDType(na_object=None)),
        np.array([*range(39), np.nan]),
        np.ma.array(np.arange(40), mask=np.arange(40) == 39),
    ],
)
@pytest.mark.parametrize("argument", ["subjects", "groups"])
def test_a_missing_label_is_no_person_and_no_group(labels: Any, argument: str) -> None:
    with pytest.raises(
        ReliFError, match=rf"task 'stay': 1 of 40 {argument} are missing \(first at position 39\)"
    ):
        audit(SCORES, 0.25, **{argument: {"mortality": np.arange(40), "stay": labels}})


@pytest.mark.parametrize("series", [pd.Series, pl.Series])
def test_a_missing_score_outside_a_frame_is_refused(series: Any) -> None:
    with pytest.raises(ReliFError, match="task 'stay': 1 of 40 scores are missing"):
        audit({**SCORES, "stay": series([*SCORES["stay"][1:].tolist(), None])}, 0.25)


def test_rounding_above_one_is_put_back_and_said() -> None:
    over = SCORES["stay"].astype(np.float32)
    over[0], over[1] = np.nextafter(np.float32(1), np.float32(2)), -1e-8
    exact = np.clip(over, 0, 1)
    found = audit({**SCORES, "stay": over}, 0.25)
    assert found.bias == audit({**SCORES, "stay": exact}, 0.25).bias
    assert found.notes == ("task 'stay': 2 of 40 scores lay outside [0, 1] by rounding and were put back",)
    over[2] = 1.001
    with pytest.raises(
        ReliFError, match=r"3 of 40 scores lie outside \[0, 1\] \(smallest -1e-08, largest 1.001\)"
    ):
        audit({**SCORES, "stay": over}, 0.25)


def test_tolerance_one_passes_with_a_note() -> None:
    found = audit(SCORES, 1)
    assert (found.bias, found.violation_rate) == (0, 0)
    assert found.notes == ("no gap can exceed the tolerance 1 of ('mortality', 'stay')",)
    assert public.AuditResult.from_json(found.to_json()).notes == found.notes


def test_embeddings_of_torch_and_pandas() -> None:
    embeddings = {task: GENERATOR.normal(size=(40, 3)) for task in SCORES}
    expected = induced_tolerances(embeddings, SCORES)
    for kind in (torch.tensor, pd.DataFrame):
        found = induced_tolerances({task: kind(array) for task, array in embeddings.items()}, SCORES)
        assert found == pytest.approx(expected)
    array = embeddings["stay"]
    distances = reference_distances(torch.tensor(array), pd.Series(IDS), 3)
    assert distances == pytest.approx(reference_distances(array, IDS, 3))


BAD = [None, "x", True, 3.5, -1, [], [[0.1]], {}, object(), np.nan, np.array(["a"]), {"a": [0.1]}]
EMBEDDINGS = {task: np.ones((40, 2)) + values[:, None] for task, values in SCORES.items()}
CALLS: dict[str, Callable[[Any], Any]] = {
    "audit scores": lambda x: audit(x, 0.2),
    "audit pool": lambda x: audit({"a": x, "b": [0.1]}, 0.2),
    "audit tolerance": lambda x: audit(SCORES, x),
    "audit subjects": lambda x: audit(SCORES, 0.2, subjects={"mortality": x, "stay": x}),
    "audit groups": lambda x: audit(SCORES, 0.2, groups={"mortality": x, "stay": x}),
    "audit pair_seed": lambda x: audit(SCORES, 0.2, protocol="sampled", pair_seed=x),
    "audit protocol": lambda x: audit(SCORES, 0.2, protocol=x),
    "audit context": lambda x: audit(SCORES, 0.2, context=x),
    "level": lambda x: PLAIN.bias_interval(x),
    "compare": lambda x: compare(PLAIN, x),
    "compare level": lambda x: compare(PLAIN, PLAIN, x),
    "curve": lambda x: bias_curve(SCORES, x),
    "curve scores": lambda x: bias_curve(x, [0.1]),
    "conformal": lambda x: public.conformal_tolerance(x, 0.1),
    "conformal alpha": lambda x: public.conformal_tolerance([0.1, 0.2], x),
    "induced k": lambda x: induced_tolerances(EMBEDDINGS, SCORES, x),
    "induced embeddings": lambda x: induced_tolerances(x, SCORES),
    "induced embedding": lambda x: induced_tolerances({**EMBEDDINGS, "stay": x}, SCORES),
    "budget": lambda x: public.drift_budget(x, {("a", "b"): 0.2}),
    "budget induced": lambda x: public.drift_budget(0.2, x),
    "budget value": lambda x: public.drift_budget(0.2, {("a", "b"): x}),
    "certificate": lambda x: public.ranking_certificate(0.1, 0.2, x, 0.1),
    "pairs": lambda x: public.calibration_pairs(x, 0),
    "pairs seed": lambda x: public.calibration_pairs(IDS, x),
    "distances": lambda x: reference_distances(x, IDS, 0),
    "distances ids": lambda x: reference_distances(EMBEDDINGS["stay"], x, 0),
    "bootstrap": lambda x: public.subject_bootstrap(SCORES, 0.2, dict.fromkeys(SCORES, IDS), replicates=x),
    "bootstrap seed": lambda x: public.subject_bootstrap(
        SCORES, 0.2, dict.fromkeys(SCORES, IDS), replicates=1, seed=x
    ),
    "same subject": lambda x: public.same_subject_audit(SCORES, x, 0.2),
    "neighbours": lambda x: public.similar_pairs(x, k=1),
    "neighbours k": lambda x: public.similar_pairs(EMBEDDINGS, k=x),
    "similar": lambda x: public.similar_pair_audit(SCORES, x, 0.2),
    "similar L": lambda x: public.similar_pair_audit(SCORES, public.similar_pairs(EMBEDDINGS, k=1), x),
    "limit": lambda x: public.lipschitz_limit(SCORES, public.similar_pairs(EMBEDDINGS, k=1), x),
    "card": lambda x: public.audit_card(x, model="m"),
    "card model": lambda x: public.audit_card(PLAIN, model=x),
    "card level": lambda x: public.audit_card(PLAIN, model="m", level=x),
    "card induced": lambda x: public.audit_card(PLAIN, model="m", induced=x),
    "card utility": lambda x: public.audit_card(PLAIN, model="m", utility=x),
    "card html": lambda x: public.card_html(x),
    "card markdown": lambda x: public.card_markdown(x),
    "from dict": lambda x: public.AuditResult.from_dict(x),
    "from json": lambda x: public.AuditResult.from_json(x),
}


@pytest.mark.parametrize("call", CALLS)
def test_no_public_function_answers_bad_input_with_a_raw_traceback(call: str) -> None:
    answers = 0
    for value in BAD:
        with contextlib.suppress(ReliFError):
            CALLS[call](value)
            answers += 1
    assert answers < len(BAD)
