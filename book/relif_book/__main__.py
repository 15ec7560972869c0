"""``python -m relif_book``: execute pages, find stale ones and bring them up to date, build the book."""

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relif_book.build.staleness import MEND, stale_pages
from relif_book.project import project_root
from relif_core.errors import InputError, ReliFError


def check(root: Path) -> int:
    """Print every stale page with its reasons and the command that mends them; return the exit status."""
    stale = stale_pages(root)
    for name, reasons in stale.items():
        print(f"stale page {name}: {'; '.join(reasons)}")
    if stale:
        print(f"{len(stale)} stale: run `{MEND}` and commit notebooks/")
        return 1
    print("all pages are fresh")
    return 0


def update(root: Path, names: Sequence[str] = (), *, workers: int = 2, again: bool = False) -> int:
    """Re-execute stale pages (all, or those named) and update the committed notebooks; return the exit
    status.
    """
    from relif_book.build.execute import execute_pages, page_names

    execute_pages(
        list(names) or page_names(root), root / "notebooks", root=root, workers=workers, again=again
    )
    return 0


def parse_parameters(pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Read ``[name, value]`` pairs from the shell: Python literals where they are, text otherwise.

    Raises
    ------
    InputError
        A name is given twice.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise InputError(f"parameter {name} is given twice")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m relif_book", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="name stale pages and the command that mends them")
    for command, help_text in (
        ("update", "re-execute stale pages and update notebooks/"),
        ("book", "build the book"),
    ):
        sub = commands.add_parser(command, help=help_text)
        sub.add_argument("--workers", type=int, default=2, help="pages executed at a time")
        sub.add_argument("--again", action="store_true", help="execute fresh pages too")
        if command == "update":
            sub.add_argument("pages", nargs="*", help="page names; all pages when none is given")
    run = commands.add_parser("execute", help="execute one page with parameters of your own")
    run.add_argument("page")
    run.add_argument("output", type=Path)
    run.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    given = parser.parse_args(arguments)
    try:
        root = project_root()
        if given.command == "check":
            return check(root)
        if given.command == "update":
            return update(root, given.pages, workers=given.workers, again=given.again)
        if given.command == "book":
            from relif_book.build.book import build_book

            print(build_book(root, workers=given.workers, again=given.again).relative_to(root))
            return 0
        from relif_book.build.execute import execute_page

        execute_page(
            given.page, given.output.absolute(), root=root, parameters=parse_parameters(given.parameters)
        )
        print(given.output)
    except ReliFError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
