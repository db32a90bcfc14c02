"""FileProgress: which files are being read, how far, and how far all of them; plain lines where nobody watches."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0


class FileProgress:
    """A bar for all files, and one for each that is being read.

    Call it with a file, its cells done and its cells; from any thread.

    Parameters
    ----------
    console
        Where to write.
    total
        Number of files.
    """

    def __init__(self, console: Console, *, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._cells: dict[Path, int] = {}
        self._tasks: dict[Path, TaskID] = {}
        self._started = self._shown = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[count]}"),
                TimeRemainingColumn(),
                console=console,
                expand=True,
            )

    def __enter__(self) -> FileProgress:
        if self._bar is not None:
            self._bar.start()
            self._whole = self._bar.add_task("all files", total=self._total, count=f"0/{self._total}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, file: Path, done: int, total: int) -> None:
        """Show how far a file is."""
        self._cells[file] = done
        ended = done >= total and total > 0
        self._done += ended
        cells = sum(self._cells.values())
        rate = cells / max(time.monotonic() - self._started, 1e-9)
        summary = f"{self._done}/{self._total} files, {cells:,} cells, {rate:,.0f} cells/s"
        if self._bar is None:
            now = time.monotonic()
            if now - self._shown >= PLAIN_SECONDS or (ended and self._done == self._total):
                self._shown = now
                self._console.print(f"Preparing {summary}", highlight=False, soft_wrap=True)
            return
        if file not in self._tasks:
            self._tasks[file] = self._bar.add_task(f"  {file.name[:32]}", total=total or None, count="")
        if ended:
            self._bar.remove_task(self._tasks[file])
            self._bar.update(self._whole, completed=self._done, count=summary)
        else:
            self._bar.update(self._tasks[file], completed=done, count=f"{done:,}/{total:,} cells")
            self._bar.update(self._whole, count=summary)
