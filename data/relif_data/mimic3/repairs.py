"""The benchmark's plain errors, each with a name, what is done instead, and whether it is on by default."""

from collections.abc import Iterable
from dataclasses import dataclass

from relif_core.errors import InputError, listed
from relif_data.sources import own_table


@dataclass(frozen=True)
class Repair:
    """What the benchmark does, what is done instead, and whether ``compatibility="repaired"`` has it."""

    name: str
    quirk: str
    repair: str
    default: bool


REPAIRS = {
    row["name"]: Repair(**row | {"default": row["default"] == "yes"})  # type: ignore[arg-type]
    for row in own_table("mimic3/tables/repairs.csv")
}
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
