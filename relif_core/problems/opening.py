"""From a tensor folder to the problem that trains on it, whatever the folder's format."""

from pathlib import Path

from relif_core.errors import DataError
from relif_core.problems.base import Problem
from relif_core.settings import RunSettings
from relif_core.tensors.folder import read_manifest


def open_problem(
    data: Path | str, device: str, settings: RunSettings, weights: Path | str | None = None
) -> Problem:
    """Return the problem of a tensor folder on a device, for runs with the settings' ``training.maximum_hours``.

    ``weights`` is a file of encoder weights, which dense problems read. Raises ``DataError`` for a folder of no known format.
    """
    kind = read_manifest(Path(data)).get("format")
    if kind == "relif-clinical-1":
        from relif_core.problems.clinical import ClinicalProblem
        from relif_core.tensors.clinical import ClinicalTensors

        return ClinicalProblem(ClinicalTensors.open(data), device, settings.training.maximum_hours)
    if kind == "relif-dense-1":
        from relif_core.problems.dense import DenseProblem
        from relif_core.tensors.dense import DenseTensors

        return DenseProblem(DenseTensors.open(data), device, weights=weights)
    raise DataError(f"{data} has format {kind!r}, which no problem reads; make the tensors again")
