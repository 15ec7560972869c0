"""What a person sees of a study: a table on a terminal, elsewhere one line per ended run."""

import io
from dataclasses import replace

from relif_core.studies.display import StudyDisplay
from relif_core.training.loop import EpochReport


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(epoch: int) -> EpochReport:
    return EpochReport(
        epoch=epoch, epochs=3, losses={"mortality": 0.25}, penalty=0.5, weight=0.1, smoothed_rate=0.3,
        worst=0.6, macro=0.7, best_epoch=1,
    )  # fmt: skip


def test_one_line_per_ended_run_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with StudyDisplay(2, stream) as display:
        display.show("erm seed 0", report(1))
        display.show("erm seed 0", report(3))
        assert stream.getvalue() == ""
        display.show("erm seed 0", None)
        display.show("relif seed 0", None)
    first, second = stream.getvalue().splitlines()
    assert first.startswith("erm seed 0: ended after epoch 3 of 3, Worst 0.6000 (best at 1), ")
    assert second.startswith("relif seed 0: ended before its first epoch")


def test_names_in_the_table_are_no_markup() -> None:
    stream = Terminal()
    with StudyDisplay(1, stream) as display:
        display.show("erm seed 0", replace(report(1), losses={"[/b]": 0.5, ":x:": 0.25}))
    assert "[/b]" in stream.getvalue()
    assert ":x:" in stream.getvalue()


def test_a_table_on_a_terminal() -> None:
    stream = Terminal()
    with StudyDisplay(2, stream) as display:
        display.show("erm seed 0", report(1))
        display.show("relif seed 0", report(2))
        display.show("relif seed 0", None)
    shown = stream.getvalue()
    assert "1 ended, 1 under way, 2 asked for" in shown
    assert "mortality" in shown
    assert "0.250" in shown
