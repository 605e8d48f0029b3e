import io

from rich.console import Console

from samclip.merge.training.reporting import ConsoleReporter, StepRecord


def record(step: int) -> StepRecord:
    return StepRecord("both", step, 1.0, {"clip": 0.25, "sam": 1.5}, 1e-4, 2.0, 0.125)


def test_without_a_terminal_a_line_now_and_then() -> None:
    console = Console(file=io.StringIO(), width=80)
    reporter = ConsoleReporter(console)
    with reporter.stage("both", 40, 112):
        for step in range(40, 112):
            reporter.step(record(step))
        reporter.note("[not] markup")
    with reporter.stage("next", 0, 1):
        reporter.advance("few words")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "both 50/112  clip 0.2500  sam 1.5000  0.12 s/step",
        "both 100/112  clip 0.2500  sam 1.5000  0.12 s/step",
        "both 112/112  clip 0.2500  sam 1.5000  0.12 s/step",
        "[not] markup",
        "1/1  few words",
    ]


def test_on_a_terminal_a_bar_with_losses() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    reporter = ConsoleReporter(console)
    with reporter.stage("both", 3, 5):
        reporter.step(record(3))
        reporter.step(record(4))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "5/5" in shown
    assert "sam 1.5000" in shown
