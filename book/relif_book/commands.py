"""The commands ``relif card``, ``publish``, ``book`` and ``pages``: what becomes of finished runs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from relif_book.project import page_names, project_root
from relif_core.cli import say
from relif_core.errors import InputError
from relif_core.files import read_json
from relif_core.options import read_pairs

pages_app = typer.Typer(no_args_is_help=True, help="Execute pages and find stale ones.")

Workers = Annotated[int, typer.Option(help="Pages executed at a time.", min=1)]
Again = Annotated[bool, typer.Option("--again", help="Execute fresh pages too.")]


def _pages() -> list[str]:
    return page_names(project_root())


def register(app: typer.Typer) -> None:
    """Add this package's commands to the command line."""
    for command in (card, publish, book):
        app.command()(command)
    app.add_typer(pages_app, name="pages")


def card(
    record: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[list[Path], typer.Option(help="File to write: .json, .md or .html (repeatable).")],
    tolerance: Annotated[
        float | None, typer.Option(help="The fixed tolerance δ, if not read from --reference.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Published folder whose reference.json holds the tolerance.")
    ] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
) -> None:
    """Write the audit card of a run."""
    from relif_book.evidence.publishing import read_reference
    from relif_book.evidence.reporting import record_card
    from relif_core.cli.audit import apart
    from relif_core.record import Record

    if (tolerance is None) == (reference is None):
        raise InputError("name either --tolerance or --reference")
    apart([record / "record.json", reference and reference / "reference.json"], [], output)
    held = tolerance if reference is None else read_reference(reference)
    content = record_card(Record.load(record), held, split)  # type: ignore[arg-type]
    for path in output:
        content.save(path)


def publish(
    runs: Annotated[Path, typer.Argument(help="Folder of finished runs of one data set.")],
    target: Annotated[Path, typer.Argument(help="Folder for the records that may leave the machine.")],
    keep: Annotated[
        str,
        typer.Option(
            help=(
                "Per-person arrays, where the licence allows any: all, test, study (logits of some seeds), or"
                " aggregates."
            )
        ),
    ] = "all",
    logit_seeds: Annotated[
        int,
        typer.Option(help="With --keep study: how many of the lowest seeds keep their test logits.", min=0),
    ] = 5,
    logit_methods: Annotated[
        str, typer.Option(help="With --keep study: the methods that do, separated by commas; all if empty.")
    ] = "",
    exploratory: Annotated[
        bool, typer.Option(help="Publish runs of modified or several states of the sources, labelled so.")
    ] = False,
) -> None:
    """Write a study's records as far as the data's licence allows, audited at one tolerance."""
    from relif_book.evidence.publishing import publish as publish_records
    from relif_core.record import load_records

    if keep not in ("all", "test", "study", "aggregates"):
        raise InputError(f"--keep {keep!r}: choose all, test, study or aggregates")
    if keep != "study" and (logit_methods or logit_seeds != 5):
        raise InputError("--logit-seeds and --logit-methods need --keep study; add it, or leave them out")
    if target.resolve().is_relative_to(runs.resolve()):
        raise InputError(
            f"{target} lies inside {runs}, whose runs would be there twice; choose another folder"
        )
    records = load_records(runs)
    failed = [read_json(path) for path in sorted(runs.rglob("failed.json"))]
    if not records and not failed:
        raise InputError(f"{runs} holds no finished run; name the folder of a study's records")
    table = publish_records(
        records,
        target,
        keep,  # type: ignore[arg-type]
        logit_seeds=logit_seeds,
        logit_methods=[name.strip() for name in logit_methods.split(",") if name.strip()],
        failed=failed,
        exploratory=exploratory,
    )
    typer.echo(f"{target}: {len(table.keys)} records, tolerance {table.tolerance:.4f}")


def book(
    workers: Workers = 2,
    again: Again = False,
    stored: Annotated[
        bool,
        typer.Option("--stored", help="Take fresh committed notebooks instead of executing their pages."),
    ] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print the whole book as one PDF too.")] = False,
) -> None:
    """Execute the pages of this checkout and render the book."""
    from relif_book.build.book import build_book, print_book

    if stored and again:
        raise InputError("--stored executes nothing that is fresh, --again everything; choose one")
    typer.echo(build_book(project_root(), workers=workers, again=again, stored=stored, report=say))
    if pdf:
        typer.echo(print_book(project_root()))


@pages_app.command()
def check() -> None:
    """Name stale pages and the command that mends them; status 1 if there are any."""
    from relif_book.build.staleness import MEND, stale_pages

    stale = stale_pages(project_root())
    for name, reasons in stale.items():
        typer.echo(f"stale page {name}: {'; '.join(reasons)}")
    if stale:
        typer.echo(f"{len(stale)} stale: run `{MEND}` and commit notebooks/")
        raise typer.Exit(1)
    typer.echo("all pages are fresh")


@pages_app.command()
def update(
    pages: Annotated[
        list[str] | None, typer.Argument(help="Pages; all if none is given.", autocompletion=_pages)
    ] = None,
    workers: Workers = 2,
    again: Again = False,
) -> None:
    """Re-execute stale pages and update the committed notebooks."""
    from relif_book.build.execute import execute_pages
    from relif_book.build.notebook import settle_source

    root = project_root()
    names = pages or page_names(root)
    for name in names:
        settle_source(root / "notebooks" / f"{name}.md")
    execute_pages(names, root / "notebooks", root=root, workers=workers, again=again, report=say)


@pages_app.command()
def execute(
    page: Annotated[str, typer.Argument(help="A page's name.", autocompletion=_pages)],
    output: Annotated[Path, typer.Argument(help="The executed notebook to write.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value for the page (repeatable).")
    ] = None,
) -> None:
    """Execute one page with parameters of your own; what it prints is shown as it goes."""
    from relif_book.build.execute import execute_page
    from relif_book.parameters import PATHS

    given, root = read_pairs(parameter or []), project_root()
    for name in PATHS & given.keys():  # The kernel's own folder is not the caller's.
        given[name] = ",".join(os.path.abspath(path) if path else "" for path in given[name].split(","))
    execute_page(page, output.absolute(), root=root, parameters=given, echo=sys.stderr)
    typer.echo(output)
