"""eICU as clinical tensors, from its raw tables or from the hourly layout of its demo.

Raw tables give the 17 channels of the MIMIC-III benchmark tasks hour by hour; the hourly layout gives 48
vital signs and laboratory values. Both end in the same tasks: mortality (one label a stay) and the remaining
length of stay (one label an hour).
Source: Pollard et al., *The eICU Collaborative Research Database*, Scientific Data 5:180178, 2018.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from relif_core.errors import InputError
from relif_core.tensors.clinical import write_tensors
from relif_core.tensors.folder import refuse_to_overwrite
from relif_data.eicu.hourly import hourly_tensors
from relif_data.eicu.raw_tables import table_tensors
from relif_data.labels import refuse_changed, require_integer
from relif_data.resume import Work


def prepare(
    source: Path,
    target: Path,
    *,
    layout: Literal["auto", "tables", "hourly"] = "auto",
    mortality: Literal["hospital", "unit"] = "hospital",
    mortality_hours: int = 48,
    first_label_hour: int = 5,
    maximum_hours: int | None = None,
    decompensation: bool = False,
    diagnosis_groups: bool = False,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Make clinical tensors in the folder ``target`` and return it.

    Patients, not stays, are divided into train, validation and test. A label's input ends before its hour. A
    killed reading of raw tables goes on with its unfinished tables when it is called again. The hourly layout
    states death in the unit at hour 24 and takes none of the options of raw tables.

    Args:
        source: Tables (CSV or CSV.gz, names and headers in any case, also inside a folder ``tables``), or
            ``hourly/los`` and ``hourly/mortality24`` beside `patient`.
        target: Folder of the tensors.
        layout: "auto" takes the hourly layout where it exists.
        mortality: Raw tables: death in the hospital or in the unit.
        mortality_hours: Raw tables: the hour at which it is read.
        first_label_hour: First hour with hourly labels.
        maximum_hours: Raw tables: longer stays are cut.
        decompensation: Raw tables: add death within 24 hours.
        diagnosis_groups: Raw tables: add the 14 organ systems of the diagnoses.
        validation_fraction: Share of patients.
        test_fraction: Share of patients.
        seed: Of the division.
        progress: Called with a line of text per step.

    Raises:
        DataError: An incomplete or damaged source, or a target that holds other data.
        InputError: Options out of range.
    """
    source, target = Path(source), Path(target)
    report = progress or (lambda message: None)
    if layout not in ("auto", "tables", "hourly"):
        raise InputError(f"layout={layout!r}: choose auto, tables or hourly")
    if mortality not in ("hospital", "unit"):
        raise InputError(f"mortality={mortality!r}: choose hospital or unit")
    require_integer("mortality_hours", mortality_hours, least=1)
    require_integer("first_label_hour", first_label_hour, least=1)
    require_integer("seed", seed, least=0)
    if maximum_hours is not None:  # It must reach every label.
        require_integer("maximum_hours", maximum_hours, least=max(mortality_hours, first_label_hour))
    if not (validation_fraction > 0 and test_fraction > 0 and validation_fraction + test_fraction < 1):
        raise InputError(
            f"validation_fraction={validation_fraction}, test_fraction={test_fraction}: both must be positive"
            " and leave some patients for training"
        )
    chosen = layout if layout != "auto" else "hourly" if (source / "hourly").is_dir() else "tables"
    refuse_to_overwrite(target, {"dataset": "eicu"})
    common: dict[str, Any] = {
        "first_label_hour": first_label_hour,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "seed": seed,
    }
    special: dict[str, Any] = {
        "mortality": mortality,
        "mortality_hours": mortality_hours,
        "maximum_hours": maximum_hours,
        "decompensation": decompensation,
        "diagnosis_groups": diagnosis_groups,
    }
    if chosen == "hourly":
        refuse_changed(prepare, special, "the hourly layout fixes this, layout='tables' does not")
        contents, work, special = hourly_tensors(source, **common, progress=report), Work(target, {}, {}), {}
    else:
        contents, work = table_tensors(source, **common, **special, target=target, progress=report)
    with work.last_step(target):
        options = {"layout": chosen, **common, **special}
        written = write_tensors(target, dataclasses.replace(contents, options=options))
    report(f"wrote {written}")
    return written
