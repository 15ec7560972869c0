"""The command ``relif``: audit scores, train runs and studies; other packages add their commands.

Every subcommand imports what it needs when it is called, so that each starts as fast as its own work allows.
"""

import contextlib
import errno
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from relif_core import __version__
from relif_core.cli.audit import audit_app
from relif_core.errors import InputError, ReliFError, RunPaused, listed
from relif_core.files import UNWRITABLE

if TYPE_CHECKING:
    from relif_core.settings import RunSettings

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

app.add_typer(audit_app, name="audit")

#: Modules that a bare installation lacks, and the extra that brings them.
EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "sklearn", "safetensors", "scipy"), "train"),
    **dict.fromkeys(("pyarrow", "h5py", "PIL"), "data"),
    **dict.fromkeys(
        ("IPython", "bs4", "docutils", "jupytext", "matplotlib", "nbclient", "nbformat", "pandas",
         "papermill", "playwright", "seaborn", "sphinx", "traitlets", "yaml"), "book",
    ),
}  # fmt: skip

#: What the system says of a path that cannot be used, whoever comes upon it.
PATH_FAULTS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, *UNWRITABLE)

Data = Annotated[Path, typer.Option(help="Tensor folder made by `relif data`.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]
Threads = Annotated[
    int, typer.Option(min=1, max=1024, help="CPU threads per run; part of exact reproducibility.")
]
Change = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, e.g. --set training.epochs=20 (repeatable).")
]
OwnBalancer = Annotated[
    list[str] | None,
    typer.Option(help="A balancer's path/to/file.py:Class; its method is the class's name (repeatable)."),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Encoder weights of a dense model: safetensors or a torchvision state dictionary."),
]


def _methods() -> list[str]:
    from relif_core.methods import METHODS

    return list(METHODS)


def _studies() -> list[str]:
    from relif_core.studies.grid import STUDIES

    return [*STUDIES, *_methods()]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"relif-core {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Fixed-tolerance auditing and controlled Lipschitz regularisation for multi-task learning."""


def main() -> None:
    """Run the command line: exit status 2 for bad input, 70 for what failed or crashed, 130 when interrupted.

    1 only ever means that a ``check`` found what it looks for: an audit above its limits, a stale page; 141
    that the reader of the output left. Other packages add commands by an entry point of ``relif.commands``: a
    function that takes the application.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names and signs that its encoding has not
    try:
        for entry in entry_points(group="relif.commands"):
            entry.load()(app)
        app()
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        if ending.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            sys.stdout.flush()
            os._exit(ending.code)  # Taking torch down would last longer than a stop may.
        raise
    except ReliFError as error:
        say(f"relif: {error}")
        sys.exit(error.status)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            _crash()
        say(f"relif: this needs {error.name}; install it with pip install 'relif-core[{extra}]'")
        sys.exit(2)
    except OSError as error:
        if error.errno not in PATH_FAULTS:
            _crash()
        say(f"relif: {str(error.filename or 'the output')[:500]}: {error.strerror}; name another path")
        sys.exit(2)
    except Exception:
        _crash()


def _crash() -> NoReturn:
    traceback.print_exc()
    sys.exit(70)


@app.command()
def run(
    data: Data,
    target: Annotated[Path, typer.Option(help="Folder of the record; a started run goes on there.")],
    method: Annotated[
        str | None,
        typer.Option(
            help="A balancer, relif, an ablation or <balancer>+relif; else the --balancer, or relif.",
            autocompletion=_methods,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, batch order and dropout.")] = 0,
    device: Device = "auto",
    threads: Threads = 1,
    weights: Weights = None,
    balancer: OwnBalancer = None,
    change: Change = None,
) -> None:
    """Train one configuration and leave a record."""
    import torch

    from relif_core.files import LOCK, refuse_inside
    from relif_core.methods import add_balancer
    from relif_core.problems import changes_for, open_problem
    from relif_core.settings import method_settings
    from relif_core.studies.display import StudyDisplay
    from relif_core.training.loop import CHECKPOINT
    from relif_core.training.loop import run as train

    where = _device(device)
    own = [add_balancer(reference).key for reference in balancer or []]
    if method is None:
        method = own[-1] if own else "relif"
    refuse_inside(target, data)
    present = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if (target.exists() and not target.is_dir()) or (
        present and not present & {LOCK, "record.json", CHECKPOINT}
    ):
        raise InputError(f"{target} holds something else; name a new folder for the record")
    changes = _changes(change)
    settings = method_settings(method, seed=seed, **changes_for(data, changes, weights))
    settings = _fit_precision(settings, where, "precision" in changes.get("training", {}))
    torch.set_num_threads(threads)
    problem = open_problem(data, where, settings, weights)
    name = f"{method} seed {seed}"
    with _stoppable(), StudyDisplay(1, sys.stderr) as display:
        record = train(settings, problem, target, progress=lambda report: display.show(name, report))
        display.show(name, None)
    found = record.result["utility"]["test"]
    worst, macro = (
        "undefined" if found[name] is None else f"{found[name]:.4f}" for name in ("worst", "macro")
    )
    typer.echo(
        f"{target}: epoch {record.result['best_epoch']} of {record.result['epochs']}; "
        f"test Worst {worst}, Macro {macro}"
    )


@app.command()
def study(
    name: Annotated[
        str,
        typer.Argument(help="A named study, or a comma-separated list of methods.", autocompletion=_studies),
    ],
    data: Data,
    target: Annotated[
        Path, typer.Option(help="Folder of the study's records; a started study goes on there.")
    ],
    seeds: Annotated[
        str | None,
        typer.Option(
            help=(
                "Seeds and ranges such as 100-129 or 100,103,110-112, or how many from 0 on (up to 50); the"
                " study's own if not given."
            )
        ),
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="Only this block of the study's methods; 1 is the most valuable.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the device.")] = 1,
    minutes: Annotated[
        float | None, typer.Option(help="Stop cleanly after this time; call again to go on.")
    ] = None,
    device: Device = "auto",
    threads: Threads = 1,
    weights: Weights = None,
    engine: Annotated[
        str | None, typer.Option(help="in_process, processes or ray; by the number of workers if not given.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of a running Ray cluster; one is started here if not given.")
    ] = None,
    balancer: OwnBalancer = None,
    change: Change = None,
) -> None:
    """Bring every run of a study to a record; finished runs are never computed again."""
    from relif_core.methods import add_balancer
    from relif_core.problems import changes_for
    from relif_core.studies.display import StudyDisplay, cost_lines
    from relif_core.studies.grid import STUDIES, named_study, read_seeds, refuse_other_study, run_study

    where = _device(device)
    for reference in balancer or []:
        add_balancer(reference)
    if address is not None and engine != "ray":
        raise InputError("--address is of a Ray cluster; add --engine ray, or leave it out")
    listed = None if seeds is None else read_seeds(seeds)
    changes = _changes(change)
    runs = named_study(name, listed, block, **changes_for(data, changes, weights))
    # A study of the plan states its precision; a named one keeps the CPU's of its earlier records.
    stated = name in STUDIES and (where == "cpu" or bool(STUDIES[name].changes))
    stated = stated or "precision" in changes.get("training", {})
    runs = [_fit_precision(settings, where, stated) for settings in runs]
    refuse_other_study(runs, data, target)
    each = sorted({settings.seed for settings in runs})
    span = f"seed {each[0]}" if len(each) == 1 else f"{len(each)} seeds, {each[0]} to {each[-1]}"
    say(f"{name}: {len(runs)} runs, {len({settings.method for settings in runs})} methods, {span}")
    with _stoppable():
        with StudyDisplay(len(runs), sys.stderr) as display:
            summary = run_study(
                runs, data, target, workers=workers, device=where, threads=threads, minutes=minutes,
                weights=weights, watch=display.show, engine=engine, address=address,
            )  # fmt: skip
        for job, problem in summary.damaged.items():
            say(f"damaged, made again: {job}: {problem}")
        for job in summary.busy:
            say(f"busy: {job}: another process is making it")
        for job, problem in summary.failed.items():
            say(f"failed: {job}: {problem}")
        for line in cost_lines(summary.records):
            typer.echo(line)
        typer.echo(
            f"{len(summary.records)} of {len(runs)} records ({summary.found} found, {summary.made} made) in"
            f" {summary.seconds / 60:.1f} min; {len(summary.paused)} to go on with, {len(summary.busy)} busy,"
            f" {len(summary.failed)} failed"
        )
    if summary.failed:
        raise typer.Exit(70)


def _changes(pairs: list[str] | None) -> dict[str, Any]:
    """Read ``--set`` pairs; what has an option of its own, or makes a method what it is, is refused."""
    from relif_core.settings import RunSettings, read_changes

    changes, known = read_changes(pairs or []), RunSettings.__dataclass_fields__
    own = "the method's own argument"
    givers = {"seed": "--seed, and --seeds of a study,", "method": own, "balancer": own, "penalty": own}
    for name in changes:
        if name in givers:
            raise InputError(f"--set {name}: {givers[name]} gives it")
        if name not in known:
            raise InputError(f"--set {name}: there is no such setting; there are {listed(sorted(known))}")
    if changes.get("model", {}).get("task") is not None:
        raise InputError(f"--set model.task: {own}, such as single_depth, gives it")
    return changes


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block within two seconds, the command with the signal's status."""
    from relif_core.training.stopping import StopRequest, stop_on_signals

    request = StopRequest()
    try:
        with stop_on_signals() as request:
            yield
    except (KeyboardInterrupt, RunPaused):
        if not request.signal:
            raise
    if request.signal:
        say("stopped; the same command goes on")
        raise typer.Exit(128 + request.signal)


def say(line: str) -> None:
    """Tell something beside the output."""
    typer.echo(line, err=True)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", name, re.ASCII)
    if found is None:
        raise InputError(f"device {name!r} is none that trains; use --device cpu, cuda, cuda:N or auto")
    if name != "cpu" and int(found[1] or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r}: this machine has no such CUDA device; use --device cpu")
    return name


def _fit_precision(settings: "RunSettings", device: str, stated: bool) -> "RunSettings":
    """Return settings in the device's own precision, bfloat16 where it has that; what is stated stands."""
    from relif_core.provenance import has_bfloat16
    from relif_core.settings import changed

    able = device.startswith("cuda") or has_bfloat16()
    if able and not stated:
        return changed(settings, {"training": {"precision": "bfloat16"}})
    if settings.training.precision == "bfloat16" and not able:
        raise InputError("training.precision is bfloat16, which this processor has not; --set it to float32")
    return settings
