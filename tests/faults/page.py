"""The table of a run under faults, and its page."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path
from typing import Any

COLUMNS = (
    "kill", "terminate", "lost rank", "full disk", "read-only", "cut checkpoint", "bit of a checkpoint",
)  # fmt: skip


def table(journal: list[dict[str, Any]]) -> str:
    """Return a line per job: rounds, faults, and the longest answers to a signal and a lost rank."""
    heads = ("job", "alone", "rounds", "faults", *COLUMNS, "longest after SIGTERM", "longest after a lost rank")
    lines = [heads, ("---",) * len(heads)]
    names = list(dict.fromkeys(one["job"] for one in journal))
    for name in [*names, None]:
        own = [one for one in journal if name in (None, one["job"])]
        counts = Counter(fault for one in own for fault in one["faults"])
        longest = [
            max((one["slowest"].get(fault, 0) for one in own), default=0) for fault in ("terminate", "lost rank")
        ]
        lasts = "" if name is None else f"{max(one['lasts'] for one in own):.0f} s"
        cells = [name or "all", lasts, len(own), sum(counts.values()), *(counts[fault] or "" for fault in COLUMNS)]
        lines.append((*map(str, cells), *(f"{seconds:.0f} s" if seconds else "" for seconds in longest)))
    again = sum(one["begun_again"] for one in journal)
    mounted = sum(one["tmpfs"] for one in journal)
    notes = [f"Rounds whose output lay on a tmpfs that was made full and read-only: {mounted} of {len(journal)}."]
    if again:
        notes.append(f"Trainings begun again as the last two checkpoints were damaged: {again}.")
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *notes])


def write_page(path: Path, journal: list[dict[str, Any]]) -> None:
    """Write the page of a run."""
    import torch

    path.write_text(
        "# Commands under faults\n\n"
        "`python tests/faults/faults.py --journal FILE --page FILE`; what it does is said at its head.\n\n"
        f"{table(journal)}\n\nPython {platform.python_version()}, torch {torch.__version__}.\n",
        encoding="utf-8",
    )
