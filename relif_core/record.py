"""What a finished run leaves: a folder with ``record.json`` and ``arrays.npz``, readable without torch.

``record.json`` holds the key, settings, data set, result and circumstances; ``arrays.npz`` the audit scores
per split and task, the calibration distances, the step trace and the readings of every epoch. ``result`` and
the arrays are determined by the key on one kind of processor; ``made`` (times, machine, sources, versions) is
not. Fields that came later are optional.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relif_core.audit import HistogramSketch
from relif_core.calibration import LabelledLogits
from relif_core.controller import controller_of
from relif_core.errors import DataError, RecordError
from relif_core.files import read_json, write_file, write_json
from relif_core.settings import RunSettings, as_json, settings_from

FORMAT = "relif-record-1"
#: The four ways to read a run's audit scores, and the arrays that hold them: the selected or the last epoch,
#: raw or after one temperature per task.
VIEWS = {"": "score", "calibrated": "calibrated", "last": "last", "last_calibrated": "last_calibrated"}


def run_key(settings: RunSettings, data_fingerprint: str, device: str) -> str:
    """Return the sha256 of what determines a run.

    Args:
        settings: Of the run.
        data_fingerprint: Of its tensors.
        device: Kind of device, "cpu" or "cuda".
    """
    return _key(as_json(settings), data_fingerprint, device)


def _key(settings: Mapping[str, Any], data_fingerprint: str, device: str) -> str:
    content = {"format": FORMAT, "settings": settings, "data": data_fingerprint, "device": device}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """A finished run.

    ``content`` is record.json. ``arrays`` maps ``score/<split>/<task>`` (float32, one per sample with a
    label), and under the same name ``sample/...`` (its row in the data set) and ``subject/...`` (its
    subject's number), to arrays, besides ``calibration/distances`` and ``trace/violation_rate``. Under
    ``calibrated/``, ``last/`` and ``last_calibrated/`` stand the scores of the other :data:`VIEWS`;
    ``logit/`` and ``last_logit/`` (float16 [rows, classes]), ``label/`` and ``rows/`` (labelled hours of each
    sample, where a sample has several) are what they were made of. ``epoch/<split>/<quantity>`` [epochs, ...]
    follows ``epoch/<split>/epoch``; its curves [epochs, D] belong to ``epoch/tolerances``, and
    ``epoch/<split>/raw/<task>`` [epochs, 64] holds quantiles of dense scores before scale and clipping.
    ``raw/<split>/<task>`` of dense runs holds scores before scale and clipping (segmentation: [n, 8], by
    temperature, ``segmentation_nll`` the loss of its labels there). ``histogram/<view>/<split>/<task>``
    stands in published records for scores that were left out, ``merged_histogram/...`` [2, bins] (upper
    edges, counts) where no bin may hold fewer than ten.
    """

    content: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)

    @property
    def key(self) -> str:
        """The hash of what determines this run."""
        return self.content["key"]

    @property
    def settings(self) -> RunSettings:
        """The settings in force."""
        return settings_from(RunSettings, self.content["settings"])

    @property
    def method(self) -> str:
        """The method's name."""
        return self.content["settings"]["method"]

    @property
    def seed(self) -> int:
        """The seed of initial weights, batch order and dropout."""
        return self.content["settings"]["seed"]

    @property
    def result(self) -> dict[str, Any]:
        """Utility, induced tolerances, history and the selected epoch."""
        return self.content["result"]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in the data set's order, which is the audit's order."""
        return tuple(task["name"] for task in self.content["dataset"]["tasks"])

    def scores(self, split: str = "test", view: str = "") -> dict[str, np.ndarray]:
        """Return a split's audit pools: task → scores [n] in [0, 1].

        A published record may hold float16 logits in their place: scores made of these are within 0.0003.

        Args:
            split: "validation" or "test".
            view: One of :data:`VIEWS`.
        """
        if not self.has(view, split) and (logits := self.logits(split, last=view.startswith("last"))):
            found = self.result["last"] if view.startswith("last") else self.result
            temperatures = found["temperatures"] if view.endswith("calibrated") else {}
            return {task: own.scores(temperatures.get(task, 1.0)) for task, own in logits.items()}
        return self._per_task(VIEWS[view], split)

    def has(self, view: str, split: str = "test") -> bool:
        """Tell whether a record holds the audit pools of a view themselves.

        Args:
            view: One of :data:`VIEWS`.
            split: "validation" or "test".
        """
        return any(name.startswith(f"{VIEWS[view]}/{split}/") for name in self.arrays)

    def sketch(self, split: str = "test", view: str = "") -> HistogramSketch:
        """Return the histograms of a view that a published record holds in place of its scores.

        Args:
            split: "validation" or "test".
            view: One of :data:`VIEWS`.
        """
        counts = self._per_task(f"histogram/{VIEWS[view]}", split)
        return HistogramSketch(
            {task: own.astype(np.int64) for task, own in counts.items()}, dict.fromkeys(counts, 0)
        )

    def logits(self, split: str = "test", *, last: bool = False) -> dict[str, LabelledLogits]:
        """Return a split's logits and labels; empty where none are kept.

        Args:
            split: "validation" or "test".
            last: Those of the last epoch instead of the selected one.
        """
        kinds = {task["name"]: task.get("kind", "") for task in self.content["dataset"]["tasks"]}
        found = {}
        for task in self.tasks:
            place = f"{split}/{task}"
            logits = self.arrays.get(f"{'last_' if last else ''}logit/{place}")
            if logits is not None and f"label/{place}" in self.arrays:
                rows = self.arrays.get(f"rows/{place}", np.ones(len(logits), dtype=np.int32))
                found[task] = LabelledLogits(kinds[task], logits, self.arrays[f"label/{place}"], rows)
        return found

    def subjects(self, split: str = "test") -> dict[str, np.ndarray]:
        """Return the subject of every pool entry: task → numbers [n]."""
        return self._per_task("subject", split)

    def induced_tolerances(self, split: str = "test") -> dict[tuple[str, str], float]:
        """Return the method's induced tolerance per task pair on a split."""
        pairs = self.result["induced_tolerances"][split]
        return {(item["tasks"][0], item["tasks"][1]): item["tolerance"] for item in pairs}

    def trace(self, name: str) -> np.ndarray:
        """Return a step trace: ``weight``, ``violation_rate`` or ``smoothed_rate`` [steps].

        Records keep the rates; the controller makes weights and smoothed rates of them, to the last bit.
        """
        if f"trace/{name}" in self.arrays:
            return self.arrays[f"trace/{name}"]
        controller = controller_of(**asdict(self.settings.controller))
        steps = []
        for rate in self.arrays["trace/violation_rate"].tolist():
            weight = controller.update(rate)
            smoothed = controller.smoothed_rate
            steps.append((weight, np.nan if smoothed is None else smoothed))
        found = np.array(steps).reshape(-1, 2)
        return found[:, ("weight", "smoothed_rate").index(name)]

    def _per_task(self, kind: str, split: str) -> dict[str, np.ndarray]:
        found = {
            task: self.arrays[f"{kind}/{split}/{task}"]
            for task in self.tasks
            if f"{kind}/{split}/{task}" in self.arrays
        }
        if not found:
            raise RecordError(f"record {self.key[:12]} holds no {kind} arrays for split {split!r}")
        return found

    def digest(self) -> str:
        """Return the sha256 of everything that the key determines: two runs of one key must agree in it."""
        content = {name: self.content[name] for name in ("key", "settings", "dataset", "result")}
        hasher = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
        for name in sorted(self.arrays):
            hasher.update(name.encode() + str(self.arrays[name].dtype).encode() + self.arrays[name].tobytes())
        return hasher.hexdigest()

    def save(self, folder: Path) -> Path:
        """Write the record; ``record.json`` comes last and names the checksum of the arrays."""
        folder = Path(folder)
        stream = io.BytesIO()
        np.savez_compressed(stream, allow_pickle=False, **self.arrays)
        packed = stream.getvalue()
        write_file(folder / "arrays.npz", packed)
        write_json(
            folder / "record.json", self.content | {"arrays_sha256": hashlib.sha256(packed).hexdigest()}
        )
        return folder

    @classmethod
    def load(cls, folder: Path) -> "Record":
        """Read a record back; ``RecordError`` names what is missing, damaged or of another format."""
        folder = Path(folder)
        mend, packed_file = "remove the folder and run again", folder / "arrays.npz"
        try:
            content = read_json(folder / "record.json", mend)
        except FileNotFoundError as error:
            raise RecordError(
                f"{folder} holds no record.json: the run has not finished; run it again to go on"
            ) from error
        except DataError as error:
            raise RecordError(str(error)) from error
        except OSError as error:
            raise RecordError(f"{folder} cannot be read ({error.strerror}); name a run's folder") from error
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        if found != FORMAT:
            raise RecordError(f"{folder} has format {found!r}, this version reads {FORMAT!r}; {mend}")
        parts = ("settings", "dataset", "result", "made")
        if not all(isinstance(content.get(name), dict) for name in parts) or content.get("key") not in (
            _key(content["settings"], content["dataset"].get("fingerprint"), device)
            for device in ("cpu", "cuda")
        ):
            raise RecordError(f"{folder / 'record.json'} was changed after it was written; {mend}")
        try:
            packed = packed_file.read_bytes()
            if hashlib.sha256(packed).hexdigest() != content.pop("arrays_sha256", None):
                raise RecordError(f"{packed_file} differs from its checksum; {mend}")
            with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except FileNotFoundError as error:
            raise RecordError(f"{packed_file} is missing; {mend}") from error
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise RecordError(f"{packed_file} cannot be read ({error}); {mend}") from error
        return cls(content, arrays)

    @staticmethod
    def finished(folder: Path) -> bool:
        """Tell whether a folder holds a finished record (its last file is there)."""
        return (Path(folder) / "record.json").is_file()


def load_records(folder: Path, **wanted: Any) -> list[Record]:
    """Load the finished records below a folder, sorted by method and seed.

    Args:
        folder: The folder.
        **wanted: ``method`` or ``seed`` that the records must have.
    """
    records = [Record.load(path.parent) for path in sorted(Path(folder).rglob("record.json"))]
    for name, value in wanted.items():
        records = [record for record in records if getattr(record, name) == value]
    return sorted(records, key=lambda record: (record.method, record.seed, record.key))


def describe_dataset(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of its data set: never the data."""
    names = ("dataset", "title", "licence", "output_policy", "synthetic", "fingerprint", "tasks")
    return {name: manifest[name] for name in names}
