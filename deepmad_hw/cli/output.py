"""What people see: answers on stdout, messages and progress on stderr, no animation off a terminal. Layer 4."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from deepmad_hw.files.jsonfile import Json, dumps


def answer(text: str) -> None:
    """Print a line of the answer.

    Args:
        text: the line.
    """
    print(text)


def answer_json(data: Json | list[Any]) -> None:
    """Print the answer as one JSON value.

    Args:
        data: the value.
    """
    print(dumps(data), end="")


def message(text: str) -> None:
    """Print a line that is no part of the answer.

    Args:
        text: the line.
    """
    print(text, file=sys.stderr)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None, numbers: Sequence[int] = ()
) -> None:
    """Print a table as part of the answer.

    Args:
        columns: headings.
        rows: cells as texts.
        title: line above the table.
        numbers: positions of columns that are set to the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, show_edge=False)
    for position, heading in enumerate(columns):
        drawn.add_column(heading, justify="right" if position in numbers else "left")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))  # as plain text: a name may hold brackets
    # Piped output is for files and programs, which have no width, and no colours whatever the environment says.
    shown = sys.stdout.isatty()
    console = Console(
        file=sys.stdout, force_terminal=None if shown else False, width=None if shown else 160, highlight=False
    )
    with console.capture() as captured:
        console.print(drawn)
    for line in captured.get().splitlines():
        print(line.rstrip())


class Steps:
    """A running count of work done, shown while it runs; `drawn` says whether there is a bar."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task
        self.drawn = progress is not None

    def advance(self, *, done: float, total: float | None = None, text: str | None = None) -> None:
        """Show how far the work is.

        Args:
            done: units finished so far.
            total: units in all, if that has changed.
            text: what is being done now.
        """
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, description=text)


@contextmanager
def progress(text: str, *, total: float | None = None) -> Iterator[Steps]:
    """Show a bar with the time left on stderr while something runs; off a terminal, one line when it starts.

    Args:
        text: what is being done.
        total: units of work, or None where nobody knows.
    """
    if not sys.stderr.isatty():
        message(text)
        yield Steps(None, None)
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        yield Steps(drawn, drawn.add_task(text, total=total))
