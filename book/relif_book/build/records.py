"""The runs under ``data/records`` without their arrays: what made each, for the pages that link to them."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from relif_book.evidence.result_set import SHORT_NAMES
from relif_book.project import project_root
from relif_core.files import read_json


@dataclass(frozen=True)
class RunRow:
    """One finished run as a reader looks it up: method, seed, what it is, where and how it was made."""

    method: str
    seed: int
    key: str
    source: str
    made: str
    command: str
    dataset: str
    short: str


@cache
def runs_of(folder: str) -> tuple[RunRow, ...]:
    """Return the runs of ``data/records/<folder>`` by method and seed, or none."""
    rows = [_row(content, folder) for content in _contents(project_root() / "data" / "records" / folder)]
    return tuple(sorted(rows, key=lambda row: (row.method, row.seed, row.key)))


def _contents(folder: Path) -> list[dict[str, Any]]:
    packed = folder / "runs.npz"
    if packed.is_file():
        with zipfile.ZipFile(packed) as archive:
            return list(json.loads(archive.read("index.json"))["contents"])
    return [read_json(path) for path in sorted(folder.rglob("record.json"))]


def _row(content: dict[str, Any], folder: str) -> RunRow:
    settings, made = content["settings"], content["made"]
    command = f"relif run --data TENSORS --target RUN --method {settings['method']} --seed {settings['seed']}"
    return RunRow(
        settings["method"],
        settings["seed"],
        content["key"],
        made.get("source", ""),
        f"{made['began'][:10]}, {made['device']}",
        command + "".join(_options(settings)),
        content["dataset"]["title"],
        SHORT_NAMES.get(content["dataset"]["dataset"], content["dataset"]["title"]),
    )


def _options(settings: dict[str, Any]) -> Iterator[str]:
    """Yield options for the settings of a run that its method has not by itself on the run's kind of data.

    The precision is always among them, for `relif run` chooses it by the device.
    """
    from relif_core.problems import kind_of_settings
    from relif_core.settings import RunSettings, method_settings, settings_from

    made = settings_from(RunSettings, settings)
    by_itself = method_settings(made.method, **kind_of_settings(made).defaults(seed=made.seed))
    run, own = asdict(made), asdict(by_itself)
    for group in ("model", "training", "surrogate", "controller", "audit"):
        for name, value in run[group].items():
            if value != own[group][name] or name == "precision":
                of_a_file = name == "weights" and value != "download"
                yield " --weights FILE" if of_a_file else f" --set {group}.{name}={value}"
