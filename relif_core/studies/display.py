"""What a person sees of a study: a live table on a terminal, else a line per ended run, and the cost."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.table import Table

    from relif_core.record import Record
    from relif_core.training.loop import EpochReport

#: Ended runs that the live table still shows.
SHOWN_ENDED = 5


class StudyDisplay:
    """Follows the runs of a study; a context manager whose ``show`` is the study's ``watch``.

    ``total`` is the number of runs asked for. On a terminal a table holds the runs under way and the last
    ended ones; where ``stream`` is no terminal each run leaves one line when it ends.
    """

    def __init__(self, total: int, stream: TextIO) -> None:
        self.total = total
        self._stream = stream
        self._under_way: dict[str, tuple[float, EpochReport]] = {}
        self._ended: list[tuple[str, str]] = []

    def __enter__(self) -> "StudyDisplay":
        from rich.console import Console
        from rich.live import Live

        self._live = None
        if self._stream.isatty():
            # The names of tasks are text, whatever brackets they hold.
            console = Console(file=self._stream, markup=False, emoji=False)
            self._live = Live(self._table(), console=console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    def show(self, name: str, report: "EpochReport | None") -> None:
        """Take in a run's news.

        Args:
            name: Of the run.
            report: Of its newest epoch; None: it ended.
        """
        if report is not None:
            began = self._under_way[name][0] if name in self._under_way else time.time()
            self._under_way[name] = (began, report)
        else:
            text = "ended before its first epoch"
            if name in self._under_way:
                began, last = self._under_way.pop(name)
                text = (
                    f"ended after epoch {last.epoch} of {last.epochs}, {_worst(last)},"
                    f" {time.time() - began:.0f} s"
                )
            self._ended.append((name, text))
            if self._live is None:
                print(f"{name}: {text} ({len(self._ended)})", file=self._stream, flush=True)
        if self._live is not None:
            self._live.update(self._table())

    def _table(self) -> "Table":
        from rich.table import Table

        table = Table(
            title=f"{len(self._ended)} ended, {len(self._under_way)} under way, {self.total} asked for"
        )
        for column in ("Run", "Epoch", "Losses", "R", "λ", "r̄", "Worst"):
            table.add_column(column)
        for name, (_, report) in self._under_way.items():
            losses = " ".join(f"{task} {loss:.3f}" for task, loss in report.losses.items())
            table.add_row(
                name, f"{report.epoch}/{report.epochs}", losses, f"{report.penalty:.3f}",
                f"{report.weight:.4f}", f"{report.smoothed_rate:.3f}", _worst(report),
            )  # fmt: skip
        for name, text in self._ended[-SHOWN_ENDED:]:
            table.add_row(name, text)
        return table


def cost_lines(records: Sequence["Record"]) -> list[str]:
    """Return what training cost, a line per method and for all: runs, epochs, minutes, seconds per epoch."""
    methods = list(dict.fromkeys(record.method for record in records))
    groups = [(method, [record for record in records if record.method == method]) for method in methods]
    if len(groups) > 1:
        groups.append(("all", list(records)))
    width = max((len(name) for name, _ in groups), default=0)
    lines = []
    for name, members in groups:
        seconds = sum(record.content["made"]["training_seconds"] for record in members)
        epochs = sum(record.result["epochs"] for record in members)
        lines.append(
            f"{name.ljust(width)}  {len(members):3d} runs  {epochs:5d} epochs  {seconds / 60:7.1f} min "
            f" {seconds / epochs:7.2f} s per epoch"
        )
    return lines


def _worst(report: "EpochReport") -> str:
    worst = "not evaluated" if math.isnan(report.worst) else f"Worst {report.worst:.4f}"
    return f"{worst} (best at {report.best_epoch})"
