"""Codes of subject ids are those of ``np.unique``, whatever the ids look like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit.subject_ids import subject_codes


def require_those_of_unique(arrays: dict[str, np.ndarray]) -> None:
    ids, codes = subject_codes(arrays)
    assert ids.tolist() == np.unique(np.concatenate(list(arrays.values()))).tolist()
    for task, array in arrays.items():
        assert (ids[codes[task]] == array).all()


@pytest.mark.parametrize("scale", [1, 5003, 2**40, 2**56], ids=["dense", "sparse", "wide", "widest"])
def test_integers(scale: int) -> None:
    generator = np.random.default_rng(0)
    arrays = {task: generator.integers(-50, 50, 200) * scale for task in "abc"}
    require_those_of_unique({**arrays, "c": arrays["a"].copy()})


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_ids_keep_their_kind(dtype: type) -> None:
    ids, _ = subject_codes({"a": np.array([7, 3], dtype), "b": np.array([3, 120], dtype)})
    assert ids.dtype == dtype
    assert ids.tolist() == [3, 7, 120]


@pytest.mark.parametrize(
    "labels",
    [
        ["é", "b", "b", "", "ba"],
        ["002-34851", "002-34850", "001-99999"],
        [f"{k % 3}" * 60 for k in range(9)],
        ["", ""],
    ],
    ids=["short", "numbers", "long", "empty"],
)
def test_text(labels: list[str]) -> None:
    arrays = {"a": np.array(labels), "b": np.array(["002-34851", "b"])}
    ids, _ = subject_codes(arrays)
    assert ids.tolist() == sorted({*labels, "002-34851", "b"})
    require_those_of_unique(arrays)
    require_those_of_unique(
        {task: array.astype(array.dtype.newbyteorder()) for task, array in arrays.items()}
    )


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.text(max_size=4), min_size=1, max_size=150), cut=st.integers(1, 149))
def test_any_text(labels: list[str], cut: int) -> None:
    # NumPy does not keep null characters at the end of a text.
    labels = [label.rstrip("\0") for label in labels]
    require_those_of_unique({"a": np.array(labels), "b": np.array(labels[:cut]), "c": np.array(labels[::-1])})


def test_many_ids() -> None:
    generator = np.random.default_rng(1)
    numbers = generator.integers(0, 4000, (2, 20_000))
    require_those_of_unique(dict(zip("ab", np.char.add("p", numbers.astype(str)), strict=True)))
    require_those_of_unique(dict(zip("ab", numbers * 1_000_003, strict=True)))
