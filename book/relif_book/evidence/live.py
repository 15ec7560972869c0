"""The runs that results pages make: one study on disk that all share, so that no run is made twice."""

import atexit
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import relif_core
from relif_book.evidence.results import ResultSet, result_set
from relif_book.project import project_root
from relif_core.errors import RecordError
from relif_core.methods import added_balancers
from relif_core.studies.grid import SEVEN_METHODS, grid, run_study
from relif_core.tensors.folder import read_manifest
from relif_data import prepare

if TYPE_CHECKING:
    from relif_book import Page

#: Small enough that a run takes about a second; far too little training for a verdict.
QUICK: dict[str, Any] = {
    "model": {"hidden": 16, "head_width": 16},
    "training": {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3},
    "controller": {"warmup": 4},
}
QUICK_STAYS = 200
#: Parts of the package that no run depends on.
_ABOVE_RUNS = ("pages", "cli.py", "reporting.py", "publishing.py")


def this_run(
    page: "Page",
    methods: Sequence[str],
    **parameters: Any,
) -> ResultSet:
    """Bring every method with seeds 0 .. ``seeds`` − 1 to a record; return them, audited at their own ruler.

    Of the page's parameters (or of those given instead) ``data`` is a tensor folder (empty: simulated stays),
    ``runs`` the folder of the records (empty: the one that all pages share), ``epochs`` 0 for what the page's
    profile says. The data set is named in the footer. Balancers that were added from outside the package
    join where the paper's seven are compared.

    Raises:
        RecordError: A run failed.
    """
    given = {**page.parameters, **parameters}
    data, runs, epochs, device = (given[name] for name in ("data", "runs", "epochs", "device"))
    page.device = device
    if set(SEVEN_METHODS) <= set(methods):
        methods = [*methods, *added_balancers()]
    changes = page.choose(
        quick=QUICK, full={"training": {"precision": "bfloat16" if device.startswith("cuda") else "float32"}}
    )
    if epochs:
        changes = {**changes, "training": {**changes["training"], "epochs": epochs}}
    folder = Path(runs) if runs else shared_folder()
    with _alone(folder):
        tensors = Path(data) if data else _simulated(folder)
        summary = run_study(
            grid(list(dict.fromkeys(["erm", *methods])), range(given["seeds"]), **changes),
            tensors,
            folder / "records",
            workers=given["workers"],
            device=device,
        )
    if summary.failed:
        raise RecordError("; ".join(f"{job}: {problem}" for job, problem in summary.failed.items()))
    manifest = read_manifest(tensors)
    page.uses_data(manifest["title"], licence=manifest["licence"], synthetic=manifest["synthetic"])
    print(
        f"{len(summary.records)} runs on {manifest['title']}: {summary.found} found, {summary.made} made here"
    )
    return result_set("This run", summary.records).narrowed(methods)


def shared_folder() -> Path:
    """Return the folder of the runs that pages share: in the build folder, one per state of training code.

    Where the checkout cannot be written, a temporary folder that goes with the process.
    """
    folder = project_root() / "_build" / "runs" / training_digest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="relif-runs-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def training_digest() -> str:
    """Return the sha256 of the sources that runs depend on: a change voids earlier shared runs."""
    root = Path(relif_core.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if relative.parts[0] not in _ABOVE_RUNS:
            digest.update(relative.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _simulated(folder: Path) -> Path:
    target = folder / "synthetic_icu"
    if not (target / "manifest.json").is_file():
        prepare("synthetic_icu", None, target, stays=QUICK_STAYS, seed=0)
    return target


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other page works in the folder; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".pages.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
