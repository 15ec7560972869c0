"""What ``relif data`` says at its end: cohort, drops and classes, so that a wrong reading is seen early."""

import re
from collections.abc import Sequence
from pathlib import Path

from relif_core.tensors.clinical import FORMAT, ClinicalTensors
from relif_core.tensors.folder import read_manifest
from relif_data.summary import Count, summarise_tensors

MOST_CLASSES = 12
#: Notes of the manifest that tell what was not read; those of rules and sources stay there.
_LOSSES = re.compile(r"left out: \d|out of range|are no numbers|without a? ?label|dropped|passed over")


def closing_lines(folder: Path) -> list[str]:
    """Return a tensor folder's closing summary, small cells hidden; empty for image tensors."""
    if read_manifest(folder)["format"] != FORMAT:
        return []
    tensors = ClinicalTensors.open(folder)
    found = summarise_tensors(tensors)
    least = found["least_count"]
    lines = [
        f"cohort: {step['rule']}: {_said(step['stays'], least)} stays left, {_said(step['removed'], least)}"
        " removed"
        for step in found["cohort"]
    ]
    drops = tensors.manifest["options"].get("counts", {})
    lines += [
        f"rows: {name}: {_said(count if count >= least else None, least)}"
        for name, count in drops.items()
        if count
    ]
    lines += [f"note: {note}" for note in found["notes"] if _LOSSES.search(note)]
    lines += [
        f"{group['name']}: {_levels(group['levels'], group['stays'])}"
        for group in found["groups"]
        if group["stays"]
    ]
    for task in found["tasks"]:
        names = task["class_names"] or ["no", "yes"]
        for split, part in task["splits"].items():
            head = f"{task['title']}, {split}: {_said(part['labels'], least)} labels"
            shown = len(names) <= MOST_CLASSES
            lines.append(f"{head}; {_levels(names, part['counts'])}" if shown else head)
    return lines


def _said(count: Count, least: int) -> str:
    return f"hidden (fewer than {least})" if count is None else f"{count:,}"


def _levels(names: Sequence[str], counts: Sequence[Count]) -> str:
    return ", ".join(
        f"{name} {'hidden' if count is None else f'{count:,}'}"
        for name, count in zip(names, counts, strict=True)
    )
