"""How far a job of many small steps is: a bar, or a line now and then where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0
"""Between two lines where nobody watches a terminal."""


@contextmanager
def steps(total: int, unit: str, *, show: bool) -> Iterator[Callable[[str], None]]:
    """Give a function that is called after each step, with a word for what is next.

    Parameters
    ----------
    total
        Steps there are.
    unit
        What a step is, in the plural.
    show
        False says nothing.
    """
    console = Console()
    if not show:
        yield lambda _: None
    elif console.is_terminal and not console.is_dumb_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
            task = bar.add_task("", total=total)
            yield lambda word: bar.update(task, advance=1, description=word)
    else:
        began = shown = time.monotonic()
        done = 0

        def advance(word: str) -> None:
            nonlocal done, shown
            done += 1
            now = time.monotonic()
            if now - shown >= PLAIN_SECONDS:
                shown = now
                left = (total - done) * (now - began) / done
                line = f"{done:,}/{total:,} {unit}, {left:,.0f} s left: {word}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)

        yield advance
