"""The benchmark's plain errors, each with a name, what is done instead, and whether it is on by default."""

from collections.abc import Iterable
from dataclasses import dataclass

from relif_core.errors import InputError, listed


@dataclass(frozen=True)
class Repair:
    """What the benchmark does, what is done instead, and whether ``compatibility="repaired"`` has it."""

    name: str
    quirk: str
    repair: str
    default: bool = True


_ALL = (
    Repair(
        "numeric_maximum",
        "of several heart rates, respiratory rates, mean pressures or coma scores at one chart time the"
        " greatest text wins: '95' beats '105'",
        "the greatest number (for coma scales the highest score) wins",
    ),
    Repair(
        "fio2_scale",
        "the fraction of inspired oxygen is divided by 100 whatever its size (unless the unit is torr): 0.5"
        " becomes 0.005",
        "only numbers above 1 are divided by 100",
    ),
    Repair(
        "blood_only",
        "urine glucose, and pH of urine and other body fluids, enter the blood channels",
        "only blood specimens are read",
    ),
    Repair(
        "fahrenheit",
        "a Fahrenheit reading below 79 is taken for Celsius",
        "a reading above 45 whose unit or item says Fahrenheit is converted",
    ),
    Repair(
        "impossible_values",
        "no range is applied: a systolic pressure of 11,647 mmHg is an input",
        "physically impossible values are left out",
    ),
    Repair(
        "flagged_errors",
        "chart rows that the staff marked as errors are inputs",
        "rows with ERROR = 1 are left out",
    ),
    Repair(
        "unknown_units",
        "a unit text that no rule knows is ignored",
        "values with an unknown unit are left out where the unit decides the value",
    ),
    Repair(
        "admission_from_stay",
        "an event without admission id is lost even where its stay id is given",
        "the stay id decides",
    ),
    Repair(
        "all_diagnosis_codes",
        "diagnosis rows whose code is missing in the ICD-9 dictionary table are lost before phenotypes are"
        " assigned",
        "every diagnosis row counts",
    ),
    Repair(
        "hospital_death",
        "death in hospital is read from the date of death (a midnight) or a death time up to discharge;"
        " deaths on the day of discharge but outside the hospital count, deaths recorded minutes after"
        " discharge do not",
        "the admission's own death flag decides",
    ),
    Repair(
        "los_after_death",
        "hours after the death but before the stay's recorded end carry labels of length of stay",
        "labels of length of stay end with the life of the patient",
        default=False,
    ),
    Repair(
        "fio2_set_item",
        "Carevue's main item for inspired oxygen (190, FiO2 Set) is not read: a gap, no error",
        "item 190 is read too",
        default=False,
    ),
)
REPAIRS = {repair.name: repair for repair in _ALL}
"""Every repair by name."""


def chosen_repairs(compatibility: str, repairs: Iterable[str] | str | None = None) -> frozenset[str]:
    """Return the names of the repairs in force.

    Args:
        compatibility: "benchmark" means none, "repaired" the default ones.
        repairs: Names, or one text with commas, instead of that choice.

    Raises:
        InputError: An unknown word.
    """
    if compatibility not in ("benchmark", "repaired"):
        raise InputError(f"compatibility={compatibility!r}: choose 'repaired' or 'benchmark'")
    if repairs is None:
        default = (name for name, repair in REPAIRS.items() if repair.default)
        return frozenset(default if compatibility == "repaired" else ())
    names = [name.strip() for name in repairs.split(",")] if isinstance(repairs, str) else list(repairs)
    chosen = frozenset(name for name in names if name)
    unknown = sorted(chosen - REPAIRS.keys())
    if unknown:
        raise InputError(f"repairs: {listed(unknown)} unknown; choose among {', '.join(REPAIRS)}")
    return chosen
