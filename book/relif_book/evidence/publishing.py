"""Published records: what of a study may leave the machine, and the files that the book reads.

A published folder holds ``reference.json`` (the tolerance and the validation evidence that chose it), ``audits.json`` (the audit
table at that tolerance: aggregates) and one record per run; runs of one task alone, which nothing can audit, lie apart in
``single_task``. Where the data's licence allows no per-person output, the
records are published without scores, samples and subjects; the audit table carries what tables and figures need.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from relif_book.evidence.reporting import (
    AuditTable,
    ReferenceTolerance,
    audit_table,
    choose_reference_tolerance,
)
from relif_core.errors import RecordError
from relif_core.files import write_json
from relif_core.record import Record, load_records
from relif_data.sources import REGISTRY

REFERENCE = "reference.json"
AUDITS = "audits.json"
SINGLE_TASK = "single_task"
#: Arrays with one entry per person.
PERSONAL = ("score/", "sample/", "subject/")
VALIDATION = ("score/validation/", "subject/validation/")
Keep = Literal["all", "test", "aggregates"]


def write_reference(record: Record, target: Path) -> ReferenceTolerance:
    """Choose the reference tolerance from a run's validation split and write it down in ``target``; an existing one stands.

    Raises ``RecordError`` where the tolerance there was chosen from other data.
    """
    path = Path(target) / REFERENCE
    if path.is_file():
        reference = read_reference(target)
        if reference.fingerprint != record.content["dataset"]["fingerprint"]:
            raise RecordError(f"{path} was chosen from other data; publish to another folder")
        return reference
    reference = choose_reference_tolerance(record)
    write_json(path, reference.as_json())
    return reference


def read_reference(folder: Path) -> ReferenceTolerance:
    """Return the tolerance that is written down in a published folder."""
    path = Path(folder) / REFERENCE
    try:
        return ReferenceTolerance(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing: publish an ERM run there first (relif publish)") from error
    except (ValueError, TypeError) as error:
        raise RecordError(f"{path} is no reference tolerance ({error}); publish again") from error


def publish(records: Sequence[Record], target: Path, keep: Keep = "all") -> AuditTable:
    """Write records, their audit table and (once) the reference tolerance to ``target``; return the table.

    The tolerance comes from the ERM run with the lowest seed. Calibration distances are kept (they belong to pairs, not
    persons); per-person arrays only where they may leave (:func:`may_leave`). ``keep`` says which of these: "all";
    "test", the test pools with their subjects, and the validation pools of the reference run alone; "aggregates", none.

    Raises ``RecordError`` where two records share method and seed, or where runs differ in their protocol: what was selected and
    calibrated on different images does not compare.
    """
    target = Path(target)
    alone = [record for record in records if len(record.tasks) == 1]
    records = [record for record in records if len(record.tasks) > 1]
    _check_one_study([*records, *alone], target)
    reference_run = min(
        (record for record in records if record.method == "erm"), key=lambda record: record.seed, default=None
    )
    if reference_run is None:
        raise RecordError(f"nothing to publish to {target}: the tolerance needs a finished ERM run")
    reference = write_reference(reference_run, target)
    table = audit_table(records, reference.tolerance)
    for record in records:
        level = keep if may_leave(record) else "aggregates"
        left_out: tuple[str, ...] = PERSONAL if level == "aggregates" else ()
        if level == "test":
            left_out = ("sample/",) if record.key == reference.record else ("sample/", *VALIDATION)
        kept = {name: array for name, array in record.arrays.items() if not name.startswith(left_out)}
        Record(record.content, kept).save(target / f"{record.method}-seed{record.seed}")
    for record in alone:
        kept = {name: array for name, array in record.arrays.items() if not name.startswith(PERSONAL)}
        Record(record.content, kept).save(target / SINGLE_TASK / f"{record.method}-seed{record.seed}")
    write_json(target / AUDITS, table.as_json())
    return table


def _check_one_study(records: Sequence[Record], target: Path) -> None:
    """Raise ``RecordError`` where records cannot lie in one folder."""
    protocols = {getattr(record.settings.model, "protocol", "held_out") for record in records}
    if len(protocols) > 1:
        raise RecordError(
            f"{target}: the runs follow the protocols {' and '.join(sorted(protocols))}; publish each from and to a folder of its own"
        )
    names = [(record.method, record.seed) for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        shown = ", ".join(f"{method} seed {seed}" for method, seed in twice[:5])
        raise RecordError(
            f"{target}: several runs of {shown} with other settings; publish each study from a folder of its own"
        )


def may_leave(record: Record) -> bool:
    """Tell whether per-person output of a record may be published: both its data and their source must allow it.

    The open demos of MIMIC-III and eICU come from sources that this project publishes in aggregates only.
    """
    dataset = record.content["dataset"]
    known = REGISTRY.get(dataset["dataset"])
    source_allows = dataset["synthetic"] or known is None or known.output_policy == "person"
    return dataset["output_policy"] == "person" and source_allows


def read_published(folder: Path) -> tuple[list[Record], ReferenceTolerance, AuditTable]:
    """Return the records, the tolerance and the audit table of a published folder; runs of one task are left out."""
    folder = Path(folder)
    try:
        content = json.loads((folder / AUDITS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{folder / AUDITS} is missing; publish the records again") from error
    except ValueError as error:
        raise RecordError(
            f"{folder / AUDITS} is not valid JSON ({error}); publish the records again"
        ) from error
    records = [record for record in load_records(folder) if len(record.tasks) > 1]
    return records, read_reference(folder), AuditTable.from_json(content)


def read_single_task(folder: Path) -> list[Record]:
    """Return the runs of one task alone that were published beside a study; none where there are none."""
    return load_records(Path(folder) / SINGLE_TASK)
