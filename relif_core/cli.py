"""The command ``relif``: audit scores, train runs and studies; other packages add their commands.

Every subcommand imports what it needs when it is called, so that each starts as fast as its own work allows.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relif_core.errors import InputError, ReliFError

if TYPE_CHECKING:
    from relif_core.audit import AuditResult
    from relif_core.settings import RunSettings

app = typer.Typer(
    help="Fixed-tolerance auditing and controlled Lipschitz regularisation for multi-task learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: Modules that a bare installation lacks, and the extra that brings them.
EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "sklearn", "safetensors", "scipy"), "train"),
    **dict.fromkeys(("pyarrow", "h5py", "PIL"), "data"),
}

Data = Annotated[Path, typer.Option(help="Tensor folder made by `relif data`.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]
Threads = Annotated[int, typer.Option(help="CPU threads per run; part of exact reproducibility.")]
Change = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, e.g. --set training.epochs=20 (repeatable).")
]
OwnBalancer = Annotated[
    list[str] | None,
    typer.Option(
        help="A balancer of your own, path/to/file.py:Class; its method is the class's name (repeatable)."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Encoder weights of a dense model: safetensors or a torchvision state dictionary."),
]


def main() -> None:
    """Run the command line; an error of this package ends it with its message and exit status 1.

    Other packages add commands by an entry point of the group ``relif.commands``: a function that takes the application.
    """
    for entry in entry_points(group="relif.commands"):
        entry.load()(app)
    try:
        app()
    except SystemExit as ending:
        if ending.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            sys.stdout.flush()
            os._exit(ending.code)  # Taking torch down would last longer than a stop may.
        raise
    except ReliFError as error:
        print(f"relif: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"relif: this needs {error.name}; install it with pip install 'relif-core[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(1)


@app.command()
def audit(
    scores: Annotated[
        Path,
        typer.Argument(help="CSV or Parquet: one row per sample, one column per task; empty = no label."),
    ],
    tolerance: Annotated[float, typer.Option(help="The fixed tolerance δ for every task pair.")],
    task: Annotated[
        list[str] | None, typer.Option(help="A score column, repeatable; all columns if not given.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="Column of subject ids; without one every row is a subject of its own.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column of group labels: every group is audited by itself too.")
    ] = None,
    versus: Annotated[
        Path | None, typer.Option(help="A second table of the same samples: the paired difference.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="exact, or sampled as the released implementation does.")
    ] = "exact",
    pair_seed: Annotated[int, typer.Option(help="Seed of the sampled protocol.")] = 42,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    tolerance_source: Annotated[
        str | None, typer.Option(help="Which data and rule set the tolerance; goes on the card.")
    ] = None,
    card: Annotated[
        list[Path] | None, typer.Option(help="Write the audit card: .json, .md or .html (repeatable).")
    ] = None,
) -> None:
    """Audit the scores of any model at a fixed tolerance (no torch needed)."""
    from relif_core.audit import audit as audit_scores
    from relif_core.audit import audit_card, compare
    from relif_core.score_tables import read_score_table

    def audited(path: Path) -> "AuditResult":
        pools, subjects, groups = read_score_table(path, task or (), subject, group)
        return audit_scores(
            pools,
            tolerance,
            subjects=subjects,
            groups=groups,
            protocol=protocol,
            pair_seed=pair_seed,
            context={"tolerance_source": tolerance_source},
        )

    result = audited(scores)
    for line in _audit_lines(result, level):
        typer.echo(line)
    for name, part in result.groups.items():
        typer.echo(f"group {name}:")
        for line in _audit_lines(part, level):
            typer.echo(f"  {line}")
    for name, reason in result.groups_left_out.items():
        typer.echo(f"group {name}: left out, {reason}")
    if versus is not None:
        found = compare(result, audited(versus), level)
        low, high = found.interval
        kind = "paired by subject" if found.paired else "not paired"
        typer.echo(f"Bias minus {versus.name}: {found.difference:+.4f} ({low:+.4f} to {high:+.4f}; {kind})")
    for path in card or []:
        write_card(path, audit_card(result, model=scores.name, level=level))


@app.command()
def run(
    data: Data,
    target: Annotated[Path, typer.Option(help="Folder of the record; a started run goes on there.")],
    method: Annotated[
        str | None,
        typer.Option(
            help="A balancer, relif or one of its ablations, or <balancer>+relif; relif, or the --balancer, if not given."
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

    from relif_core.files import refuse_inside
    from relif_core.methods import add_balancer
    from relif_core.problems import changes_for, open_problem
    from relif_core.settings import method_settings
    from relif_core.studies.display import StudyDisplay
    from relif_core.training import run as train

    where = _device(device)
    own = [add_balancer(reference).key for reference in balancer or []]
    method = method or (own[-1] if own else "relif")
    refuse_inside(target, data)
    settings = method_settings(method, seed=seed, **changes_for(data, read_changes(change or []), weights))
    settings = _fit_precision(settings, where, change or [])
    torch.set_num_threads(threads)
    problem = open_problem(data, where, settings, weights)
    name = f"{method} seed {seed}"
    with _stoppable(), StudyDisplay(1, sys.stderr) as display:
        record = train(settings, problem, target, progress=lambda report: display.show(name, report))
        display.show(name, None)
    found = record.result["utility"]["test"]
    typer.echo(
        f"{target}: epoch {record.result['best_epoch']} of {record.result['epochs']}; "
        f"test Worst {found['worst']:.4f}, Macro {found['macro']:.4f}"
    )


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="A named study, or a comma-separated list of methods.")],
    data: Data,
    target: Annotated[
        Path, typer.Option(help="Folder of the study's records; a started study goes on there.")
    ],
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds and ranges such as 100-129 or 100,103,110-112, or a number of seeds; the study's own if not given."
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
    listed = None if seeds is None else read_seeds(seeds)
    runs = named_study(name, listed, block, **changes_for(data, read_changes(change or []), weights))
    if name not in STUDIES or not STUDIES[name].changes:
        runs = [_fit_precision(settings, where, change or []) for settings in runs]
    refuse_other_study(runs, data, target)
    numbers = sorted({settings.seed for settings in runs})
    _say(
        f"{name}: {len(runs)} runs, {len({settings.method for settings in runs})} methods, "
        f"{len(numbers)} seeds from {numbers[0]} to {numbers[-1]}"
    )
    with _stoppable():
        with StudyDisplay(len(runs), sys.stderr) as display:
            summary = run_study(
                runs,
                data,
                target,
                workers=workers,
                device=where,
                threads=threads,
                minutes=minutes,
                weights=weights,
                watch=display.show,
                engine=engine,
                address=address,
            )
        for job, problem in summary.damaged.items():
            _say(f"damaged, made again: {job}: {problem}")
        for job in summary.busy:
            _say(f"busy: {job}: another process is making it")
        for job, problem in summary.failed.items():
            _say(f"failed: {job}: {problem}")
        for line in cost_lines(summary.records):
            typer.echo(line)
        typer.echo(
            f"{len(summary.records)} of {len(runs)} records ({summary.found} found, {summary.made} made) "
            f"in {summary.seconds / 60:.1f} min; {len(summary.paused)} to go on with, {len(summary.busy)} busy, "
            f"{len(summary.failed)} failed"
        )
    if summary.failed:
        raise typer.Exit(1)


def write_card(path: Path, card: dict[str, Any]) -> None:
    """Write an audit card in the form that the file's ending names."""
    from relif_core.audit import card_html, card_markdown
    from relif_core.files import atomic_file, write_json

    if path.suffix == ".json":
        write_json(path, card)
        return
    forms = {".md": card_markdown, ".html": card_html}
    if path.suffix not in forms:
        raise InputError(f"{path}: an audit card is written as .json, .md or .html")
    with atomic_file(path) as stream:
        stream.write(forms[path.suffix](card).encode())


def text_options(pairs: list[str]) -> dict[str, str]:
    """Read ``name=value`` pairs; the values stay text.

    >>> text_options(["seed=3", "layout=hourly"])
    {'seed': '3', 'layout': 'hourly'}
    """
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"{pair!r} is no setting; write name=value")
        if name in options:
            raise InputError(f"{name} is set twice; set it once")
        options[name] = text
    return options


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs of settings; values are JSON where they parse as such, text otherwise.

    >>> parse_options(["seed=3", "layout=hourly"])
    {'seed': 3, 'layout': 'hourly'}
    """
    options: dict[str, Any] = {}
    for name, text in text_options(pairs).items():
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def nested(options: dict[str, Any]) -> dict[str, Any]:
    """Turn dotted names into nested mappings.

    >>> nested({"training.epochs": 5, "seed": 1})
    {'training': {'epochs': 5}, 'seed': 1}
    """
    content: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split(".")
        place = content
        for step in path:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise InputError(f"{name} is set together with {step}, which holds it; set one of them")
        if isinstance(place.get(last), dict):
            raise InputError(f"{name} is set together with a part of it; set one of them")
        place[last] = value
    return content


def read_changes(pairs: list[str]) -> dict[str, Any]:
    """Read ``--set`` pairs as nested changes of settings; what has an option of its own is refused."""
    changes = nested(parse_options(pairs))
    for name, mend in (("seed", "--seed, and --seeds of a study,"), ("method", "the method's own argument")):
        if name in changes:
            raise InputError(f"--set {name}: {mend} gives it")
    for name in ("model", "training", "surrogate", "controller", "audit"):
        if not isinstance(changes.get(name, {}), dict):
            raise InputError(
                f"--set {name}: it holds several settings; name one of them, as {name}.NAME=VALUE"
            )
    return changes


def _audit_lines(result: "AuditResult", level: float) -> list[str]:
    """The result in a few aligned lines: overall, then per task pair."""
    (low, high), (rate_low, rate_high) = result.bias_interval(level), result.violation_rate_interval(level)
    width = max(len(" – ".join(row.tasks)) for row in result.per_pair)
    lines = [
        f"Bias           {result.bias:.4f} ({low:.4f} to {high:.4f})",
        f"Violation rate {result.violation_rate:.4f} ({rate_low:.4f} to {rate_high:.4f})",
        f"{level:.0%} intervals from {result.clusters:,} independent {result.clustered_by}s; {result.protocol} protocol",
    ]
    for row in result.per_pair:
        pair = " – ".join(row.tasks).ljust(width)
        lines.append(
            f"{pair}  δ {row.tolerance:.4f}  Bias {row.bias:.4f}  violation rate {row.violation_rate:.4f}"
        )
    return lines


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block within two seconds, and the command with a message and the signal's exit status."""
    from relif_core.errors import RunPaused
    from relif_core.stopping import StopRequest, stop_on_signals

    request = StopRequest()
    try:
        with stop_on_signals() as request:
            yield
    except (KeyboardInterrupt, RunPaused):
        if not request.signal:
            raise
    if request.signal:
        _say("stopped; the same command goes on")
        raise typer.Exit(128 + request.signal)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: this machine has no CUDA device; use --device cpu")
    return name


def _fit_precision(settings: "RunSettings", device: str, changes: list[str]) -> "RunSettings":
    """bfloat16 autocast is the default on a GPU, float32 elsewhere; what the user set stands."""
    from relif_core.settings import changed

    if device.startswith("cuda") and not any(item.startswith("training.precision") for item in changes):
        return changed(settings, {"training": {"precision": "bfloat16"}})
    return settings


if __name__ == "__main__":
    main()
