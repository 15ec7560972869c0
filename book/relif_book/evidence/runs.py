"""The runs that a page makes: in the full profile their plan is printed before they start, then progress."""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relif_core.errors import RecordError, listed
from relif_core.settings import RunSettings, changed
from relif_core.studies.display import StudyDisplay
from relif_core.studies.grid import StudySummary, run_study

if TYPE_CHECKING:
    from relif_book import Page

#: Seconds between two looks at runs that another page makes.
LOOK = 0.5


def make_runs(
    page: "Page", runs: Sequence[RunSettings], data: Path, target: Path, *, workers: int = 1, **options: Any
) -> StudySummary:
    """Bring every run to a record with :func:`~relif_core.studies.grid.run_study`, on the page's device.

    A run that another page makes at this moment is waited for. The full profile first prints how many runs
    there are, then how long those that are not made yet take at most, by one epoch of each method timed here,
    and then a line per ended run.

    Raises:
        RecordError: A run failed.
    """
    options = {"device": page.device, "workers": workers, **options}
    if page.profile == "full":
        for line in plan_of(runs, data, target, **options):
            print(line, flush=True)
        with StudyDisplay(len(runs), sys.stdout) as display:
            summary = _made(runs, data, target, watch=display.show, **options)
    else:
        summary = _made(runs, data, target, **options)
    if summary.failed:
        raise RecordError(listed((f"{job}: {problem}" for job, problem in summary.failed.items()), "; "))
    return summary


def _made(runs: Sequence[RunSettings], data: Path, target: Path, **options: Any) -> StudySummary:
    while (summary := run_study(runs, data, target, **options)).busy and not summary.failed:
        time.sleep(LOOK)
    return summary


def plan_of(
    runs: Sequence[RunSettings], data: Path, target: Path, *, workers: int, **options: Any
) -> Iterator[str]:
    """Yield what has to be made, then, when one epoch of each method is timed, the hours at most."""
    found = run_study(runs, data, target, minutes=0, **options).records
    made = {(record.method, record.seed) for record in found}
    missing = [settings for settings in runs if (settings.method, settings.seed) not in made]
    plan = (
        f"{len(runs)} runs of {len({settings.method for settings in runs})} methods, {len(found)} made before"
    )
    if not missing:
        yield plan
        return
    # ERM goes along: on dense data the others are calibrated by it.
    tried = {"erm", *(settings.method for settings in missing)}
    first = [one for one in runs if one.method in tried and one.seed == missing[0].seed]
    yield f"{plan}; an epoch of each of {len(first)} methods is timed first"
    with tempfile.TemporaryDirectory() as scratch:
        trial = [changed(settings, {"training": {"epochs": 1}}) for settings in first]
        records = run_study(trial, data, Path(scratch), **options).records
    seconds = {record.method: record.content["made"]["training_seconds"] for record in records}
    longest = max(seconds.values(), default=0.0)
    total = sum(seconds.get(settings.method, longest) * settings.training.epochs for settings in missing)
    yield (
        f"{len(missing)} runs take at most {total / workers / 3600:.1f} hours on"
        f" {options['device']}, {workers} at a time; records stay in {Path(target).name}, and a stopped page"
        " goes on from them."
    )
