"""The runs that results pages make: one study on disk that all share, so that no run is made twice."""

import atexit
import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import relif_data
from relif_book.evidence.results import ResultSet, result_set
from relif_book.evidence.runs import make_runs
from relif_book.page import TABLES
from relif_book.project import project_root
from relif_core.files import package_digest
from relif_core.methods import added_balancers, look_of
from relif_core.problems import changes_for, kind_of
from relif_core.record import Record
from relif_core.studies.grid import SEVEN_METHODS, grid
from relif_core.tensors.folder import read_manifest
from relif_data import REGISTRY, prepare

if TYPE_CHECKING:
    from relif_book import Page

#: By kind of problem: small enough that a run takes seconds; far too little training for a verdict.
QUICK: dict[str, dict[str, Any]] = {
    "clinical": {
        "model": {"hidden": 16, "head_width": 16},
        "training": {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3},
        "controller": {"warmup": 4},
    },
    "dense": {
        "model": {"encoder": "resnet18"},
        "training": {"epochs": 2, "learning_rate": 1e-3},
        "controller": {"warmup": 2},
    },
}
#: The simulated data of pages that are given none.
SIMULATED = {name: source.simulated for name, source in REGISTRY.items() if source.synthetic}


@dataclass(frozen=True)
class LiveRuns:
    """The runs that a page has brought to records: these, the tensors, and the folder of the runs."""

    records: list[Record]
    tensors: Path
    folder: Path

    def results(self, methods: Sequence[str] = ()) -> ResultSet:
        """Return the runs (of some methods alone) at their own tolerance, those of single tasks left out."""
        audited = [record for record in self.records if not look_of(record.method).dense]
        found = result_set("This run", audited)
        return found.narrowed(methods) if methods else found

    def place(self, record: Record) -> Path:
        """Return the folder of a run, which holds its weights."""
        return self.folder / f"{record.method}-seed{record.seed}-{record.key[:12]}"


def this_run(page: "Page", methods: Sequence[str], **parameters: Any) -> ResultSet:
    """Bring every method with seeds 0 .. ``seeds`` − 1 to a record and return them, audited.

    See :func:`live_runs`; balancers that were added from outside the package join where the paper's seven are
    compared.
    """
    if set(SEVEN_METHODS) <= set(methods):
        methods = [*methods, *added_balancers()]
    return live_runs(page, methods, **parameters).results(methods)


def live_runs(
    page: "Page", methods: Sequence[str], simulated: str = "synthetic_icu", **parameters: Any
) -> LiveRuns:
    """Bring every method, and ERM, with seeds 0 .. ``seeds`` − 1, or those given as ``seeds``, to a record.

    Of the page's parameters (or of those given instead) ``data`` is a tensor folder (empty: the data set
    ``simulated``), ``runs`` the folder of the records (empty: the one that all pages share), ``epochs`` 0 for
    what the page's profile says, ``weights`` a file of encoder weights. The data set is named in the footer.

    Raises:
        InputError: ``data`` holds another kind of data than ``simulated``.
        RecordError: A run failed.
    """
    given = {"workers": 1, "weights": "", **page.parameters, **parameters}
    data, runs, epochs, device = (given[name] for name in ("data", "runs", "epochs", "device"))
    page.device = device
    folder = Path(runs) if runs else shared_folder()
    weights = Path(given["weights"]) if given["weights"] else None
    with _alone(folder):
        # What another version of the simulator made stays apart.
        made = package_digest(Path(relif_data.__file__).parent, (".py", *TABLES))
        tensors = page.checked(data, simulated) if data else folder / f"{simulated}-{made[:12]}"
        if not data and not (tensors / "manifest.json").is_file():
            prepare(simulated, None, tensors, **SIMULATED[simulated])
    kind = kind_of(tensors).name
    precision = "bfloat16" if device.startswith("cuda") else "float32"
    changes = page.choose(quick=QUICK[kind], full={"training": {"precision": precision}})
    if epochs:
        changes = {**changes, "training": {**changes["training"], "epochs": epochs}}
    target = folder / ("records" if kind == "clinical" else f"{kind}_records")
    with _alone(target) if kind == "dense" else nullcontext():  # dense runs wait for ERM's in one study alone
        summary = make_runs(
            page,
            grid(
                list(dict.fromkeys(["erm", *methods])),
                range(given["seeds"]) if isinstance(given["seeds"], int) else given["seeds"],
                **changes_for(tensors, changes, weights),
            ),
            tensors,
            target,
            workers=given["workers"],
            weights=weights,
        )
    manifest = read_manifest(tensors)
    page.uses_data(manifest)
    print(f"{len(summary.records)} runs on {manifest['title']}")
    return LiveRuns(summary.records, tensors, target)


def shared_folder() -> Path:
    """Return the folder of the runs that pages share: in the build folder, one per state of training code.

    Where the checkout cannot be written, a temporary folder that goes with the process.
    """
    folder = project_root() / "_build" / "runs" / package_digest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="relif-runs-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder, once no other page works in it; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".pages.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
