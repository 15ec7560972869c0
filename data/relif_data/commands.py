"""The command ``relif data``: tensors of raw tables, checks of tensor folders, the list of sources."""

import inspect
from pathlib import Path
from typing import Annotated

import typer

from relif_core.cli import say
from relif_core.errors import InputError
from relif_core.options import read_pairs, typed_options
from relif_data import REGISTRY, prepare


def register(app: typer.Typer) -> None:
    """Add this package's command to the command line."""
    app.command()(data)


def data(
    source: Annotated[
        str,
        typer.Argument(
            help=(
                "A source's name, `check` to verify a tensor folder, `list`, or nyuv2_travel: a small form of"
                " NYUv2."
            ),
            autocompletion=lambda: ["list", "check", "nyuv2_travel", *REGISTRY],
        ),
    ],
    place: Annotated[
        str,
        typer.Argument(
            help="Where the source's files are (- for a synthetic source); for `check` the tensor folder."
        ),
    ] = "-",
    target: Annotated[Path | None, typer.Argument(help="The tensor folder to make.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="name=value for the source, repeatable.")
    ] = None,
) -> None:
    """Turn raw tables into tensors, verify a tensor folder, or list the sources."""
    from relif_core.problems import check_folder
    from relif_data.summary import closing_lines

    options = read_pairs(option or [])
    for name in options.keys() & inspect.signature(prepare).parameters.keys():
        raise InputError(f"{source}: unknown option {name}; leave it out")
    if (source == "list" and place != "-") or (source in ("list", "check") and (target or options)):
        raise InputError(f"{source} takes {'one' if source == 'check' else 'no'} folder and no options")
    if source == "list":
        for name, entry in REGISTRY.items():
            typer.echo(f"{name:16} {entry.title} ({entry.access})")
    elif source == "check":
        manifest = check_folder(Path(place))
        rows = manifest["files"].get("stays.npy") or manifest["files"]["split.npy"]
        typer.echo(
            f"{place}: {manifest['title']}, {rows['shape'][0]} samples, whole; {manifest['fingerprint'][:12]}"
        )
    elif target is None:
        simulated = source in REGISTRY and REGISTRY[source].synthetic
        raise InputError(f"name the folder to make: relif data {source} {'-' if simulated else place} TARGET")
    elif source == "nyuv2_travel":
        from relif_data.nyuv2_travel import write_travel_form

        typed = typed_options(source, write_travel_form, options)
        made = write_travel_form(Path(place), target, progress=say, **typed)
        typer.echo(f"{made} is ready; make tensors of it with: relif data nyuv2 {made} TENSORS")
    else:
        made = prepare(source, None if place == "-" else place, target, progress=say, **options)
        typer.echo(f"{made} is ready")
        for line in closing_lines(made):
            typer.echo(line)
