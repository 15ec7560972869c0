"""Published records: what of a study may leave the machine, and the files that the book reads.

A published folder holds ``reference.json`` (the tolerance and the validation evidence that chose it),
``audits.json`` and ``audits.npz`` (the audit table at that tolerance: aggregates) and one record per run, or
all of them in ``runs.npz`` with ``labels.npz`` (labels, subjects and rows per sample, once); runs of one task
alone, which nothing can audit, lie apart in ``single_task``. Where the data's licence allows no per-person
output, records hold histograms whose bins were merged until each holds ten or more, and there are no labels.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from relif_book.evidence.audit_table import AUDITS, AuditTable, audit_table, joined, packed_shares
from relif_book.evidence.packing import RUNS, load_packed, read_arrays, save_packed
from relif_book.evidence.reporting import ReferenceTolerance, choose_reference_tolerance
from relif_core.audit import HistogramSketch
from relif_core.errors import DataError, RecordError, listed
from relif_core.files import read_json, write_file, write_json
from relif_core.methods import method_of
from relif_core.record import VIEWS, Record, load_records, run_key
from relif_data.sources import REGISTRY

REFERENCE = "reference.json"
LABELS = "labels.npz"
SINGLE_TASK = "single_task"
#: Arrays with one entry per person or per labelled hour of one.
SCORES = tuple(f"{place}/" for place in VIEWS.values())
LOGITS = ("logit/", "last_logit/")
SHARED = ("label/", "rows/", "subject/")
PERSONAL = (*SCORES, *LOGITS, *SHARED, "sample/")
#: Bins of a published histogram: Bias read from one is within 1/BINS of that of the scores, whatever δ.
BINS = 1024
#: No bin of a merged histogram holds fewer.
LEAST = 10
#: Of a study that keeps no scores, the seeds (the lowest) whose test logits it keeps.
LOGIT_SEEDS = 5
Keep = Literal["all", "test", "study", "aggregates"]


def write_reference(record: Record, target: Path) -> ReferenceTolerance:
    """Return ``target``'s tolerance; without one, write the data set's, else one chosen on validation.

    That of the data set lies in a sibling folder which holds nothing published but ``reference.json``; else a
    run's validation split chooses.

    Raises:
        RecordError: The tolerance there was chosen from other data, or is not that of the data set.
    """
    target = Path(target)
    path = target / REFERENCE
    fingerprint = record.content["dataset"]["fingerprint"]
    shared = _shared_reference(target, fingerprint)
    if path.is_file():
        reference = read_reference(target)
        if reference.fingerprint != fingerprint:
            raise RecordError(f"{path} was chosen from other data; publish to another folder")
        if shared is not None and shared.tolerance != reference.tolerance:
            raise RecordError(
                f"{path} states δ = {reference.tolerance:g}, the data set's own reference"
                f" {shared.tolerance:g}; remove it, or publish to another folder"
            )
        return reference
    reference = shared or choose_reference_tolerance(record)
    write_json(path, reference.as_json())
    return reference


def _shared_reference(target: Path, fingerprint: str) -> ReferenceTolerance | None:
    for path in sorted(target.absolute().parent.glob(f"*/{REFERENCE}")):
        if path.parent != target.absolute() and not any(path.parent.glob("audits.*")):
            reference = read_reference(path.parent)
            if reference.fingerprint == fingerprint:
                return reference
    return None


def read_reference(folder: Path) -> ReferenceTolerance:
    """Return the tolerance that is written down in a published folder.

    Raises:
        RecordError: It is missing or damaged.
    """
    path = Path(folder) / REFERENCE
    try:
        return ReferenceTolerance(**read_json(path))
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing: publish an ERM run there first (relif publish)") from error
    except (DataError, TypeError) as error:
        raise RecordError(f"{path} is no reference tolerance ({error}); publish again") from error


def publish(
    records: Sequence[Record],
    target: Path,
    keep: Keep = "all",
    *,
    logit_seeds: int = LOGIT_SEEDS,
    logit_methods: Sequence[str] = (),
    failed: Sequence[Mapping[str, Any]] = (),
    exploratory: bool = False,
) -> AuditTable:
    """Write records, their audit table and (once) the reference tolerance to ``target``; return the table.

    Args:
        records: The finished runs of one study.
        target: The folder to publish to.
        keep: Of the per-person arrays, where they may leave at all (:func:`may_leave`): "all"; "test", the
            test scores with their subjects, and the validation scores of the reference run alone; "study",
            test logits of the selected epoch for the ``logit_seeds`` lowest seeds of ``logit_methods`` (of
            all methods if empty), histograms of :data:`BINS` bins in all other places, influences, labels and
            subjects once, and validation scores of the reference run, all packed into one file; "aggregates",
            none. At the level "study" runs in ``target`` stay, and its table grows by ``records``.
        logit_seeds: See ``keep``.
        logit_methods: See ``keep``.
        failed: Runs that were asked for and failed (method, seed, error): they count against their method.
        exploratory: Let modified sources pass; the table says so.

    Raises:
        InputError: One of ``logit_methods`` is no method.
        RecordError: Two records share method and seed; runs differ in their data, their protocol, their
            device type or the sources that trained them; sources were modified; no ERM run sets the
            tolerance; or ``target`` holds what another ``keep`` left there.
    """
    target = Path(target)
    for method in {*logit_methods} - {record.method for record in records}:
        method_of(method)
    _refuse_other_layout(target, keep)
    known = AuditTable.load(target) if keep == "study" and (target / AUDITS).is_file() else None
    # A process that ended between both files left runs without audits: they count as new.
    packed = load_packed(target) if known else []
    before = [record for record in packed if known and record.key in known.keys]
    kept_already = {record.key for record in before}
    lost = {record.key for record in packed} - kept_already - {record.key for record in records}
    if lost:
        raise RecordError(f"{target / RUNS} holds {len(lost)} runs without audits; publish them again too")
    alone = [record for record in records if len(record.tasks) == 1]
    records = [r for r in records if len(r.tasks) > 1 and r.key not in kept_already]
    finished = {(record.method, record.seed) for record in [*before, *records, *alone]}
    noted = known.failed if known else []
    noted = [*noted, *(dict(item) for item in failed if dict(item) not in noted)]
    failures = [item for item in noted if (item["method"], item["seed"]) not in finished]
    if known and not records and not alone and failures == known.failed:
        return known
    _check_one_study([*before, *records, *alone], target)
    if not exploratory:
        _check_sources([*before, *records, *alone], target)
    plain = [record for record in [*before, *records] if record.method == "erm"]
    reference_run = min(plain, key=lambda record: record.seed, default=None)
    if reference_run is None:
        raise RecordError(f"nothing to publish to {target}: the tolerance needs a finished ERM run")
    reference = write_reference(reference_run, target)
    if known is None:
        table = audit_table(records, reference.tolerance)
    else:
        table = joined(known, before, audit_table(records, reference.tolerance)) if records else known
        exploratory = exploratory or known.exploratory
    table = replace(table, failed=failures, exploratory=exploratory)
    with_logits = set(sorted({record.seed for record in [*before, *records]})[:logit_seeds])
    published = []
    for record in records:
        level = keep if may_leave(record) else "aggregates"
        named = not logit_methods or record.method in logit_methods
        kept = _kept(record, level, record is reference_run, named and record.seed in with_logits)
        if level == "study":
            kept |= packed_shares(table, record.key)
        published.append(Record(record.content, kept))
    if keep == "study":
        save_packed([*before, *published], target)
        if may_leave(reference_run) and reference_run.key not in kept_already:
            _save_labels(reference_run, target)
    else:
        for record in published:
            record.save(target / f"{record.method}-seed{record.seed}")
    for record in alone:
        kept = {name: array for name, array in record.arrays.items() if not name.startswith(PERSONAL)}
        Record(record.content, kept).save(target / SINGLE_TASK / f"{record.method}-seed{record.seed}")
    table.save(target)
    return table


def _load(folder: Path) -> list[Record]:
    """Return the records of a published folder, packed or one by one."""
    return load_packed(folder) if (folder / RUNS).is_file() else load_records(folder)


def _kept(record: Record, level: Keep, is_reference: bool, with_logits: bool) -> dict[str, np.ndarray]:
    if level == "all":
        return dict(record.arrays)
    also: tuple[str, ...] = ()
    if level == "test":
        also = ("score/test/", "subject/test/")
    elif level == "study" and with_logits:
        also = ("logit/test/",)
    if level != "aggregates" and is_reference:
        also += ("score/validation/", "subject/validation/")
        also += ("logit/validation/",) if level == "study" else ()
    kept = {
        name: array
        for name, array in record.arrays.items()
        if name.startswith(also) or not name.startswith(PERSONAL)
    }
    if level == "test":
        return kept
    if level == "study":
        if not is_reference:
            kept.pop("calibration/distances", None)
        # A float16 holds a share to 1 part in 2000; that is 0.00003 of a Bias of 0.06.
        for name, array in kept.items():
            if name.startswith("epoch/") and array.dtype == np.float32:
                kept[name] = array.astype(np.float16)
    for view, place in VIEWS.items():
        if not record.has(view) or (level == "study" and with_logits and place in ("score", "calibrated")):
            continue
        sketch = HistogramSketch.of(record.scores("test", view), BINS)
        for task, counts in sketch.counts.items():
            if level == "study":
                small = np.uint16 if counts.max() < 65536 else np.uint32
                kept[f"histogram/{place}/test/{task}"] = counts.astype(small)
            else:
                kept[f"merged_histogram/{place}/test/{task}"] = merged(counts, LEAST)
    return kept


def merged(counts: np.ndarray, least: int) -> np.ndarray:
    """Merge bins from the left; return upper edges (numbers of bins) and counts, int64 [2, merged].

    Args:
        counts: Of the bins.
        least: Of a merged bin; a smaller rest joins the last bin, a smaller total leaves nothing.

    >>> merged(np.array([1, 2, 0, 3, 1]), 3).tolist()
    [[2, 5], [3, 4]]
    """
    running = np.cumsum(counts)
    edges: list[int] = []
    before = 0
    while running[-1] - before >= least:
        edges.append(int(np.searchsorted(running, before + least)) + 1)
        before = int(running[edges[-1] - 1])
    if not edges:
        return np.zeros((2, 0), dtype=np.int64)
    edges[-1] = len(counts)
    return np.array([edges, np.diff([0, *running[np.array(edges) - 1]])])


def _save_labels(record: Record, target: Path) -> None:
    """Write what all runs of a study share per person: labels, subjects and rows per sample."""
    shared = {name: array for name, array in record.arrays.items() if name.startswith(SHARED)}
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **shared)
    write_file(target / LABELS, stream.getvalue())


def _refuse_other_layout(target: Path, keep: Keep) -> None:
    """Refuse, by ``RecordError``, a folder in which per-person arrays of another ``keep`` would stay."""
    others = target.glob("*-seed*") if keep == "study" else (target / RUNS, target / LABELS)
    found = sorted(path.name for path in others if path.exists())
    if found:
        raise RecordError(
            f"{target} holds {listed(found)}, which --keep {keep} would leave there; publish to another"
            " folder, or remove these first"
        )


def _check_one_study(records: Sequence[Record], target: Path) -> None:
    """Check that records can lie in one folder, else raise ``RecordError``."""
    for words, found in (
        ("are of the data", {record.content["dataset"]["fingerprint"][:12] for record in records}),
        ("follow the protocols", {getattr(r.settings.model, "protocol", "held_out") for r in records}),
        ("were made on", {device_type(record) for record in records}),
    ):
        if len(found) > 1:
            raise RecordError(
                f"{target}: the runs {words} {listed(sorted(found))}; publish each from and to a folder of"
                " its own"
            )
    names = [(record.method, record.seed) for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        shown = listed(f"{method} seed {seed}" for method, seed in twice)
        raise RecordError(
            f"{target}: several runs of {shown} with other settings; publish each study from a folder of"
            " its own"
        )


def _check_sources(records: Sequence[Record], target: Path) -> None:
    """Check that runs have one source, not modified, as far as records say, else raise ``RecordError``."""
    made = {f"{record.method} seed {record.seed}": record.content["made"] for record in records}
    made = {name: item for name, item in made.items() if "commit" in item}
    modified = [name for name, item in made.items() if item["modified"]]
    if modified:
        raise RecordError(
            f"{target}: {len(modified)} of {len(records)} runs were made from modified sources"
            f" ({listed(modified)}); commit the changes and make these runs again, or publish as"
            " exploratory (--exploratory)"
        )
    states = {digest for item in made.values() for digest in item.get("all_sources", [item["source"]])}
    if len(states) > 1:
        commits = sorted({str(item["commit"])[:7] for item in made.values()})
        raise RecordError(
            f"{target}: {len(states)} states of relif_core trained these runs (commits"
            f" {listed(commits)}); make all runs of a study from one commit, or publish as exploratory"
            " (--exploratory)"
        )


def device_type(record: Record) -> str:
    """Return the kind of device that a record was made on, which its key contains."""
    on_cpu = run_key(record.settings, record.content["dataset"]["fingerprint"], "cpu")
    return "cpu" if record.key == on_cpu else "cuda"


def may_leave(record: Record) -> bool:
    """Tell whether a record's per-person output may be published: its data and their source must allow it.

    The open demos of MIMIC-III and eICU come from sources that this project publishes in aggregates only.
    """
    dataset = record.content["dataset"]
    known = REGISTRY.get(dataset["dataset"])
    source_allows = dataset["synthetic"] or known is None or known.output_policy == "person"
    return dataset["output_policy"] == "person" and source_allows


def read_published(folder: Path) -> tuple[list[Record], ReferenceTolerance, AuditTable]:
    """Return a published folder's records, tolerance and audit table; runs of one task are left out.

    What the runs of a study share (:data:`LABELS`) is in the arrays of every record.
    """
    folder = Path(folder)
    table = AuditTable.load(folder)
    shared: dict[str, np.ndarray] = {}
    if (folder / LABELS).is_file():
        shared = read_arrays(folder / LABELS)
    records = [
        Record(record.content, {**shared, **record.arrays})
        for record in _load(folder)
        if len(record.tasks) > 1
    ]
    records.sort(key=lambda record: (record.method, record.seed, record.key))
    return records, read_reference(folder), table


def read_single_task(folder: Path) -> list[Record]:
    """Return the runs of one task alone that were published beside a study; none where there are none."""
    return load_records(Path(folder) / SINGLE_TASK)
