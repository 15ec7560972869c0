"""Data sets as training problems: what the loop asks of them, and the one table of their kinds.

A kind is an entry of ``KINDS``: the format of its tensor folders, its class, and what its runs need. Nothing
else asks for a format or for a kind of settings. The classes are imported where they are used.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relif_core.errors import DataError, InputError, ReliFError
from relif_core.settings import DenseModelSettings, ModelSettings, RunSettings, dense_changes
from relif_core.tensors.folder import MANIFEST, fingerprint_of, read_manifest

if TYPE_CHECKING:
    from relif_core.problems.base import Problem


def is_reference(settings: RunSettings) -> bool:
    """Tell whether a dense run is the ERM run (over all tasks) whose scores calibrate those of its seed."""
    alone = getattr(settings.model, "task", None) is not None
    return settings.balancer == "erm" and not settings.penalty and not alone


def scores_follow(settings: RunSettings) -> bool:
    """Tell whether nothing in a dense run reads its audit scores, so that their scale may come at its end."""
    return not settings.penalty


@dataclass(frozen=True)
class ProblemKind:
    """What the rest of the package has to know of a kind of problem.

    Attributes:
        format: Of its tensor folders.
        problem: "module:Class" with ``open(folder, device, settings, weights)``.
        checked: "module:function" that verifies a folder.
        model: Class of its model's settings.
        size: The one of these that tells a model's size.
        mend: How settings of another kind become some of this.
        subjects: What the test subjects of an audit are.
        defaults: Puts changes of settings on top of its own.
        weights: "module:function" that identifies a file of encoder weights; empty: models start from none.
        first: Tells of a run whether those of its seed need its record; None: no run needs another.
        at_end: Tells of a run whether it needs that record only at its end.
    """

    name: str
    format: str
    problem: str
    checked: str
    model: type
    size: str
    mend: str
    subjects: str
    defaults: Callable[..., dict[str, Any]] = dict
    weights: str = ""
    first: Callable[[RunSettings], bool] | None = None
    at_end: Callable[[RunSettings], bool] = lambda settings: False

    def takes(self, settings: RunSettings) -> bool:
        """Tell whether a run's settings are for this kind of problem."""
        return isinstance(settings.model, self.model)

    def allows(self, changes: Mapping[str, Any]) -> bool:
        """Tell whether changes of settings name no model of another kind."""
        return isinstance(changes.get("model"), self.model | Mapping | None)

    def waits_for(self, settings: RunSettings, other: RunSettings) -> bool:
        """Tell whether a run has to wait until another one has left its record.

        Args:
            settings: Of the run.
            other: Of the other run.
        """
        first = self.first
        return first is not None and settings.seed == other.seed and not first(settings) and first(other)


CLINICAL = ProblemKind(
    name="clinical",
    format="relif-clinical-1",
    problem="relif_core.problems.clinical:ClinicalProblem",
    checked="relif_core.tensors.clinical:check_tensors",
    model=ModelSettings,
    size="hidden",
    mend="its model settings are ModelSettings",
    subjects="test subjects",
)
DENSE = ProblemKind(
    name="dense",
    format="relif-dense-1",
    problem="relif_core.problems.dense:DenseProblem",
    checked="relif_core.tensors.dense:check_dense_tensors",
    model=DenseModelSettings,
    size="encoder",
    mend="start from relif_core.settings.dense_settings (shell: --set model.encoder=resnet50)",
    subjects="rooms of test images",
    defaults=dense_changes,
    weights="relif_core.problems.dense:weights_identity",
    first=is_reference,
    at_end=scores_follow,
)
KINDS = (CLINICAL, DENSE)


def kind_of(data: Path | str) -> ProblemKind:
    """Return the kind of a tensor folder.

    Raises:
        DataError: It is of no known format, or its manifest is no longer what was written.
    """
    manifest = read_manifest(Path(data))
    found = manifest.get("format")
    for kind in KINDS:
        if kind.format == found:
            if manifest.get("fingerprint") != fingerprint_of(manifest):
                raise DataError(
                    f"{data}: {MANIFEST} was changed after it was written; make the tensors again"
                )
            return kind
    raise DataError(f"{data} has format {found!r}, which no problem reads; make the tensors again")


def kind_of_settings(settings: RunSettings) -> ProblemKind:
    """Return the kind of problem that a run's settings are for."""
    return next(kind for kind in KINDS if kind.takes(settings))


def open_problem(
    data: Path | str, device: str, settings: RunSettings, weights: Path | str | None = None
) -> "Problem":
    """Return the problem of a tensor folder on a device.

    Args:
        data: A tensor folder.
        device: "cpu" or "cuda".
        settings: Those of the first run on it; each run takes what it needs of its own.
        weights: A file of encoder weights, which dense problems read.

    Raises:
        DataError: The folder has no known format.
    """
    with _described(data):
        return _load(kind_of(data).problem).open(data, device, settings, weights)


def check_folder(data: Path) -> dict[str, Any]:
    """Verify a tensor folder of any format and return its manifest; ``DataError`` names the fault."""
    with _described(data):
        return _load(kind_of(data).checked)(data).manifest


@contextlib.contextmanager
def _described(folder: Path | str) -> Iterator[None]:
    """Name the folder where its manifest does not describe its arrays, or where they do not fit in memory."""
    try:
        yield
    except ReliFError:
        raise
    except MemoryError as error:
        raise InputError(f"{folder}: memory is too small for its arrays ({error}); free some") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: {MANIFEST} does not describe its arrays ({type(error).__name__}: {str(error)[:200]});"
            " make the tensors again"
        ) from error


def changes_for(data: Path, changes: Mapping[str, Any], weights: Path | str | None = None) -> dict[str, Any]:
    """Return changes of settings for runs on a tensor folder, on top of what its kind of problem changes.

    Args:
        data: A tensor folder.
        changes: Settings to change, nested mappings.
        weights: A file of encoder weights, named in the settings by its checksum.

    Raises:
        InputError: Weights are given and the problem reads none, or the changes name others.
    """
    kind = kind_of(data)
    if weights is not None:
        if not kind.weights:
            raise InputError(f"--weights is for dense models, and {data} is {kind.name}")
        own, model = _load(kind.weights)(weights), changes.get("model", {})
        if (other := model.get("weights", own)) != own:
            raise InputError(f"--weights {weights} and --set model.weights={other} differ; give one of them")
        changes = {**changes, "model": {**model, "weights": own}}
    return kind.defaults(**changes)


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
