"""Options are read by types: text and values mean the same, and misfits are named before anything is done."""

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relif_core.errors import InputError
from relif_core.options import FALSE, TRUE, typed_options
from relif_core.settings import read_changes
from relif_data import prepare


def source(
    place: Path,
    *,
    seed: int = 0,
    stays: int = 10,
    hours: int | None = 48,
    decompensation: bool = False,
    validation_share: float = 0.2,
    test_share: float = 0.2,
    layout: Literal["auto", "tables"] = "auto",
    subjects: Path | None = None,
    repairs: list[str] | str | None = None,
) -> None:
    """Take every type of option that there is."""


def typed(**options: Any) -> dict[str, Any]:
    return typed_options("some", source, options)


@given(st.sampled_from(TRUE + FALSE), st.sampled_from([str.lower, str.upper, str.title]))
def test_every_word_for_a_truth_value_means_itself(word: str, written: Any) -> None:
    assert typed(decompensation=written(word)) == {"decompensation": word in TRUE}


@given(st.integers(1, 10**9), st.floats(0, 0.99))
def test_text_means_the_value_that_it_prints(number: int, share: float) -> None:
    values = {
        "seed": number,
        "stays": number,
        "hours": number,
        "validation_share": share,
        "decompensation": True,
    }
    assert typed(**{name: str(value) for name, value in values.items()}) == typed(**values) == values


@given(
    st.sampled_from(["seed", "stays", "hours", "decompensation", "validation_share", "layout", "subjects"]),
    st.text(max_size=60),
)
def test_any_text_is_read_or_refused_by_name(option: str, text: str) -> None:
    message = ""
    try:
        assert list(typed(**{option: text})) == [option]
    except InputError as error:
        message = str(error)
    assert not message or f"option {option}=" in message or "shares must be" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "abc"}, "option seed='abc' does not fit; give a whole number >= 0"),
        ({"seed": -1}, "whole number >= 0"),
        ({"seed": True}, "whole number >= 0"),
        ({"seed": 1.5}, "whole number >= 0"),
        ({"stays": "0"}, "whole number >= 1"),
        ({"hours": "long"}, "give a whole number >= 1, none"),
        ({"decompensation": "perhaps"}, "one of true, yes, on, 1, false, no, off, 0"),
        ({"decompensation": 2}, "one of true"),
        ({"validation_share": "nan"}, "give a number"),
        ({"validation_share": "0.6", "test_share": "0.4"}, "together below 1"),
        ({"layout": "round"}, "give one of auto, tables"),
        ({"subjects": "no/such/file"}, "give the path of a file, none"),
        ({"colour": 1}, "unknown option colour; known are decompensation, hours"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        typed(**options)


def test_a_source_is_not_read_before_its_options_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="eicu: option decompensation='maybe'"):
        prepare("eicu", tmp_path / "nothing", tmp_path / "target", decompensation="maybe")
    with pytest.raises(InputError, match="mimic3: option train_subjects="):
        prepare(
            "mimic3", tmp_path / "nothing", tmp_path / "target", train_subjects=str(tmp_path / "absent.csv")
        )


def test_a_setting_and_its_part_cannot_both_be_set() -> None:
    for pairs in (["training=5", "training.epochs=3"], ["training.epochs=3", "training=5"]):
        with pytest.raises(InputError, match="is set together with"):
            read_changes(pairs)
    with pytest.raises(InputError, match=r"training\.epochs is set twice"):
        read_changes(["training.epochs=1", "training.epochs=2"])


def test_settings_are_read_by_their_types() -> None:
    pairs = [
        "training.learning_rate=1",
        "training.maximum_hours=none",
        "surrogate.align=off",
        "model.task=depth",
    ]
    changes = read_changes([*pairs, "model.weights=download", "sead=1"])
    assert changes["training"] == {"learning_rate": 1.0, "maximum_hours": None}
    assert isinstance(changes["training"]["learning_rate"], float)
    assert changes["surrogate"] == {"align": False}
    assert changes["model"] == {"task": "depth", "weights": "download"}
    assert changes["sead"] == "1"  # Named as unknown by the settings themselves.
    assert read_changes(["model.weights=none"]) == {"model": {"weights": None}}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("training.epochs=few", r"setting training\.epochs='few' does not fit; give a whole number"),
        ("training.epochs=1.5", "give a whole number"),
        ("training.epochs=" + "9" * 5000, "give a whole number"),
        ("training.learning_rate=nan", "give a number"),
        ("surrogate.align=maybe", "one of true"),
        ("controller.kind=pid", "one of feedback, constant"),
        ("model=5", "holds several settings; name one of them, as model.NAME=VALUE"),
    ],
)
def test_settings_that_do_not_fit_are_named(pair: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_changes([pair])
